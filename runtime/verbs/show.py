"""What verbs print, for people or for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ...models.manifest import Manifest
from ...models.mesh import Mesh
from ...models.table import aligned, short


def show(value: Any, text: str, as_json: bool) -> None:
    """Print a value as JSON, or the text that a person reads."""
    print(json.dumps(asdict(value), indent=2) if as_json else text)


def contents(directory: str, manifest: Manifest) -> str:
    """Describe a sharded directory."""
    collectives = ", ".join(f"{count} {op}" for op, count in manifest.collectives.items())
    return "\n".join(
        [
            f"directory       {directory}",
            f"source          {manifest.source.get('path')}",
            f"mesh            {Mesh.parse(manifest.mesh)}",
            f"representation  {manifest.representation}",
            f"collectives     {collectives or 'none'}",
            *(f"{name:14}  {text}" for name, text in _predicted(manifest)),
            *(f"{'note':14}  {note}" for note in manifest.notes),
            "",
            aligned(_ranks(manifest)),
        ]
    )


def _predicted(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.batch:
        yield "batch", ", ".join(f"{name}={dim}" for name, dim in manifest.batch.items())
    found = manifest.predicted
    if "bytes_sent_per_rank" in found:
        yield "bytes sent", f"{found['bytes_sent_per_rank']:,} by a rank in a run"
    if "seconds" in found:
        stages = " + ".join(f"{1e3 * each:.3g}" for each in found.get("stage_seconds", ()))
        by_stage = f", stages {stages}" if "+" in stages else ""
        yield "predicted", f"{1e3 * found['seconds']:.3g} ms a run{by_stage}"


def _ranks(manifest: Manifest) -> list[tuple[object, ...]]:
    """Return who is where on the mesh, and holds what."""
    mesh = Mesh.parse(manifest.mesh)
    axes = [name for name, size in mesh.axes.items() if size > 1]
    rows: list[tuple[object, ...]] = [
        ("rank", *axes, "model", "weight bytes", "first node", "last node")
    ]
    for rank, entry in enumerate(manifest.ranks):
        place = mesh.place(rank)._asdict()
        ends = (short(entry.first), short(entry.last)) if entry.first else ("idle", "")
        at = (place[name] for name in axes)
        rows.append((rank, *at, entry.model, entry.weight_bytes, *ends))
    return rows
