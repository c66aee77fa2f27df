"""The verb schedule: a collective, round by round."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ...collectives.cost import traffic
from ...collectives.grid import grid
from ...collectives.schedule import Copy, Load, Recv, Send
from ...collectives.schedule import schedule as rounds_of
from ...collectives.specs import SPECS
from ...collectives.table import TABLE, Entry, lookup
from .verb import Verb

MOST_RANKS = 256
"""Of a grid: larger ones are megabytes of text."""

LEGEND = {
    Send: ">1:3 sends block 3 to rank 1",
    Recv: "<3:2 receives block 2 from rank 3, <3:2+ reduces with it",
    Copy: "0~3 copies block 0 to 3",
    Load: "@1:3 loads block 3 of rank 1, @1:3~7 loads it into block 7, @1:3+ reduces with it",
}


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers, as in 2,2."""
    return tuple(map(int, text.split(",")))


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collective", help="such as allreduce")
    parser.add_argument("algorithm", help="such as ring")
    parser.add_argument("-n", dest="ranks", type=int, required=True, metavar="RANKS")
    parser.add_argument("--root", type=int, help="of a collective that has one (default 0)")
    parser.add_argument("--segments", type=int, help="parts of each block, where it is cut")
    parser.add_argument(
        "--nodes",
        type=sizes,
        metavar="RANKS,...",
        help="ranks of each node, as in 2,2 (default: one)",
    )


def schedule(options: argparse.Namespace) -> int:
    """Print what each rank does, round by round, and how much it sends."""
    collective, algorithm, ranks = options.collective, options.algorithm, options.ranks
    root: int | None = options.root
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
    extra = chosen_options(algorithm, entry, ranks, options.segments, options.nodes)
    every_rank = rounds_of(entry.algorithm, ranks, root, **extra)
    print(grid(every_rank))
    used = {type(step) for rounds in every_rank for steps in rounds for step in steps}
    if used:
        print("\n".join(text for kind, text in LEGEND.items() if kind in used))
    total = traffic(entry.algorithm, ranks, root, **extra)
    moved = f"blocks sent per rank: {listed(total.sent)}"
    if Load in used:
        moved += f", loaded: {listed(total.loaded)}"
    parts = ranks * extra.get("segments", 1)
    noun = "round" if total.rounds == 1 else "rounds"
    print(f"{total.rounds} {noun}; {moved}; 1 block = 1/{parts} of the data")
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


VERB = Verb(
    "what each rank sends and receives in a collective, round by round",
    "rankwise schedule allreduce ring -n 4",
    add,
    schedule,
)
