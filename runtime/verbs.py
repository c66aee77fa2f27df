"""The verbs that need no ranks: inspect, shard, schedule."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..collectives.cluster import Cluster
from ..collectives.cost import traffic
from ..collectives.grid import grid
from ..collectives.schedule import Copy, Load, Recv, Send
from ..collectives.schedule import schedule as rounds_of
from ..collectives.specs import SPECS
from ..collectives.table import TABLE, Entry, lookup
from ..models.manifest import Manifest
from ..models.mesh import Mesh
from ..models.sharding.write import Progress
from ..models.table import aligned

if TYPE_CHECKING:
    from ..models.sharding.search import Terms


def inspect(options: argparse.Namespace) -> int:
    """Print what a model is made of, or what a sharded directory holds."""
    if Path(options.model).is_dir():
        manifest = Manifest.read(options.model)
        _show(manifest, contents(options.model, manifest), options.json)
    else:
        from ..models.sharding import describe

        found = describe(options.model, Mesh.parse(options.mesh), _terms(options))
        _show(found, str(found), options.json)
    return 0


def _show(value: Any, text: str, as_json: bool) -> None:
    print(json.dumps(asdict(value), indent=2) if as_json else text)


def _terms(options: argparse.Namespace) -> Terms:
    """Return what a choice is made for. Raises OSError, ValueError."""
    from ..models.sharding.hints import read_hints
    from ..models.sharding.machine import HERE
    from ..models.sharding.search import Terms

    machine = HERE
    if options.cluster is not None:
        machine = replace(HERE, cluster=Cluster.read(Path(options.cluster)))
    memory = None if options.memory is None else size_in_bytes(options.memory)
    hints = () if options.hints is None else read_hints(options.hints)
    return Terms(machine, memory, hints)


def size_in_bytes(text: str) -> int:
    """Read a number of bytes, as in 512MB, 2GB or 1.5GiB. Raises ValueError."""
    found = re.fullmatch(r"(\d+\.?\d*)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"expected a number of bytes such as 512MB or 2GiB, got {text!r}")
    number, prefix, binary = found.groups()
    power = " KMGT".index(prefix.upper() or " ")
    return round(float(number) * math.pow(1024 if binary else 1000, power))


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


def shard(options: argparse.Namespace) -> int:
    """Shard a model into a directory, or say what that would do."""
    from ..models import sharding

    mesh, terms = Mesh.parse(options.mesh), _terms(options)
    if options.dry_run:
        from ..models.graph import load

        found = sharding.preview(sharding.plan(load(options.model), mesh, terms))
        _show(found, str(found), options.json)
        return 0
    if options.output is None:
        raise ValueError("expected -o DIR, where the sharded model goes, or --dry-run")
    with _progress("sharding") as progress:
        manifest = sharding.shard(
            options.model,
            options.output,
            mesh,
            representation=options.representation,
            hints=terms.hints,
            memory=terms.memory,
            machine=terms.machine,
            progress=progress,
        )
    _show(manifest, contents(options.output, manifest), options.json)
    return 0


@contextmanager
def _progress(what: str) -> Iterator[Progress | None]:
    """Show bytes as they are written, where someone looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


MOST_RANKS = 256
"""Of a grid: larger ones are megabytes of text."""

LEGEND = {
    Send: ">1:3 sends block 3 to rank 1",
    Recv: "<3:2 receives block 2 from rank 3, <3:2+ reduces with it",
    Copy: "0~3 copies block 0 to 3",
    Load: "@1:3 loads block 3 of rank 1, @1:3~7 loads it into block 7, @1:3+ reduces with it",
}


def schedule(
    collective: str,
    algorithm: str,
    ranks: int,
    root: int | None,
    segments: int | None,
    nodes: Sequence[int] | None,
) -> int:
    """Print what each rank does, round by round, and how much it sends. `nodes`: ranks of each."""
    if collective in TABLE and algorithm not in TABLE[collective]:
        # lookup would name "auto" and "mpi" too, which have no schedule to print.
        known = ", ".join(TABLE[collective])
        raise ValueError(f"expected an algorithm of {collective} ({known}), got {algorithm!r}")
    entry = lookup(collective, algorithm)
    if not 1 <= ranks <= MOST_RANKS:
        raise ValueError(f"expected -n from 1 to {MOST_RANKS} ranks, got {ranks}")
    if not SPECS[collective].rooted:
        if root is not None:
            raise ValueError(f"{collective} has no root; leave --root out")
    elif not 0 <= (root := root or 0) < ranks:
        raise ValueError(f"expected --root from 0 to {ranks - 1}, got {root}")
    options = chosen_options(algorithm, entry, ranks, segments, nodes)
    every_rank = rounds_of(entry.algorithm, ranks, root, **options)
    print(grid(every_rank))
    used = {type(step) for rounds in every_rank for steps in rounds for step in steps}
    if used:
        print("\n".join(text for kind, text in LEGEND.items() if kind in used))
    total = traffic(entry.algorithm, ranks, root, **options)
    moved = f"blocks sent per rank: {listed(total.sent)}"
    if Load in used:
        moved += f", loaded: {listed(total.loaded)}"
    parts = ranks * options.get("segments", 1)
    print(f"{total.rounds} rounds; {moved}; 1 block = 1/{parts} of the data")
    return 0


def chosen_options(
    name: str, entry: Entry, ranks: int, segments: int | None, nodes: Sequence[int] | None
) -> dict[str, Any]:
    """What the algorithm takes beside rank, size and root, as asked for."""
    options: dict[str, Any] = {}
    if segments is not None:
        if "segments" not in entry.takes:
            raise ValueError(f"{name} cuts no blocks; leave --segments out")
        if segments < 1:
            raise ValueError(f"expected --segments from 1, got {segments}")
        options["segments"] = segments
    if nodes is not None:
        if "nodes" not in entry.takes:
            raise ValueError(f"{name} does not look at nodes; leave --nodes out")
        if min(nodes) < 1 or sum(nodes) != ranks:
            asked = ",".join(map(str, nodes))
            raise ValueError(f"expected --nodes to sum up to {ranks} ranks, got {asked}")
        options["nodes"] = tuple(node for node, count in enumerate(nodes) for _ in range(count))
    return options


def listed(counts: Sequence[int]) -> str:
    """Numbers by rank, or the one that all have."""
    return str(counts[0]) if len(set(counts)) == 1 else f"[{', '.join(map(str, counts))}]"
