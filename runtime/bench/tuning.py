"""bench --tune: from the times of the algorithms to the user's selection table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...collectives import Communicator
from ...collectives.origin import Origin
from ...collectives.specs import SPECS
from ...collectives.tuned import Case, Step, Tuned, user_file
from ..agreement import together
from .options import BenchOptions
from .timing import Progress, Seconds

Measured = list[tuple[int, Mapping[str, Seconds]]]
"""Seconds of each iteration by size in bytes and algorithm."""

LEAST_GAIN = 1.05
"""For which the algorithm is changed, where calls differ by less than that."""


def target() -> Path:
    """The file to write. Raises ValueError where none is wanted or where it cannot be added to."""
    path = user_file()
    if path is None:
        raise ValueError(
            "expected RANKWISE_COLLECTIVES to name the file that --tune writes, got an empty one; "
            "unset it"
        )
    _present(path)
    return path


def tune(
    options: BenchOptions,
    comm: Communicator,
    measured: Measured,
    origin: Origin,
    progress: Progress,
) -> None:
    """Write what was found into the user's table, and say so; all else in there is kept."""
    case = Case(
        options.collective,
        comm.size,
        # Bytes that are only moved have no dtype.
        options.dtype.kind if SPECS[options.collective].reduces else "any",
        "node" if len(comm.node_ranks) == comm.size else "nodes",
        steps(measured),
        origin,
    )

    def write() -> None:
        path = target()
        _present(path).with_case(case).write(path)
        progress.show("\n".join((*said(case), f"# written to {path}; to go back, delete it")))

    together(comm, lambda: write() if comm.rank == 0 else None)


def _present(path: Path) -> Tuned:
    """The table to add to. Raises ValueError for a broken file: it is not ours to overwrite."""
    try:
        return Tuned.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tuned()
    except ValueError as error:
        raise ValueError(f"{path} cannot be added to: {error}; delete it") from None


def steps(measured: Measured) -> tuple[Step, ...]:
    """The algorithm to take from each size on, of sizes that rise.

    Of all ways through the sizes it is the one whose times have the least product, where a change
    of the algorithm costs a factor: the noise. So a change is made for much at one size, or for a
    little at each of many, and never for what calls of one algorithm differ by among themselves.
    """
    price = noise(measured)
    ways: dict[str, tuple[float, tuple[Step, ...]]] = {}
    for nbytes, seconds in measured:
        changed = min(ways.values(), default=(-price, ()))
        for name, row in [(name, row) for name, row in seconds.items() if name != "auto"]:
            cost, found = changed[0] + price, (*changed[1], (nbytes, name))
            if name in ways and ways[name][0] <= cost:
                cost, found = ways[name]
            ways[name] = cost + float(np.log(np.median(row))), found
    return min(ways.values())[1]


def noise(measured: Measured) -> float:
    """What a change costs: a logarithm, and what noise may add up to over all sizes.

    At one size it is the difference of an algorithm from itself: between the medians of every
    other call and of those between them. Nine of ten stay below what is taken.
    """
    rows = [row for _, seconds in measured for row in seconds.values()]
    halves = [np.log(np.median(row[::2]) / np.median(row[1::2])) for row in rows]
    at_one_size = float(np.quantile(np.abs(halves), 0.9))
    return max(at_one_size * math.sqrt(len(measured)), math.log(LEAST_GAIN))


def said(case: Case) -> Sequence[str]:
    """A case in words."""
    where = "on one node" if case.placement == "node" else "on several nodes"
    kind = "of any dtype" if case.dtype == "any" else f"of dtypes of kind {case.dtype!r}"
    return (
        f"# {case.collective} {kind}, {case.ranks} ranks {where}:",
        *(f"#   from {size:>10} bytes {name}" for size, name in case.steps),
    )
