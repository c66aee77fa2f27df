"""What verbs print, for people or for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ...models.manifest import Manifest
from ...models.mesh import Mesh
from ...models.table import aligned


def show(value: Any, text: str, as_json: bool) -> None:
    """Print a value as JSON, or the text that a person reads."""
    print(json.dumps(asdict(value), indent=2) if as_json else text)


def contents(directory: str, manifest: Manifest) -> str:
    """Describe a sharded directory."""
    rows: list[tuple[object, ...]] = [("rank", "model", "stage", "weight bytes")]
    for rank, entry in enumerate(manifest.ranks):
        rows.append((rank, entry.model, entry.stage, entry.weight_bytes))
    collectives = ", ".join(f"{count} {op}" for op, count in manifest.collectives.items())
    return "\n".join(
        [
            f"directory       {directory}",
            f"source          {manifest.source.get('path')}",
            f"mesh            {Mesh.parse(manifest.mesh)}",
            f"representation  {manifest.representation}",
            f"collectives     {collectives or 'none'}",
            *(f"{name:14}  {value:,}" for name, value in manifest.predicted.items()),
            "",
            aligned(rows),
        ]
    )
