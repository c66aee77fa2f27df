"""Results by size and algorithm: as values, as lines of a table, as CSV and as JSON.

Columns are those of nccl-tests: time is the median of the calls, algbw is size over time, busbw is
algbw times the bytes that pass the slowest link for each byte of the size.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...collectives.cluster import Cluster
from ...collectives.origin import Origin
from ...collectives.specs import SPECS
from .options import BenchOptions
from .timing import Seconds

BOUND = "bound"
"""The name under which the lower bound stands among algorithms."""

BUS: dict[str, Callable[[int], float]] = {
    "allreduce": lambda n: 2 * (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "reduce": lambda n: 1.0,
}
"""Bytes that pass the slowest link for each byte of the size, by ranks; else (n - 1) / n."""


class Timing(NamedTuple):
    """The calls of one algorithm in one kind of memory."""

    seconds: float
    """the median"""
    p99: float | None = None
    spread: float | None = None
    """upper over lower quartile"""
    wrong: int | None = None
    """values of all ranks and calls; None where they were not looked at"""

    @classmethod
    def of(cls, seconds: Seconds, wrong: int | None) -> Timing:
        low, middle, high, p99 = np.quantile(seconds, (0.25, 0.5, 0.75, 0.99)).tolist()
        return cls(middle, p99, high / low, wrong)


@dataclass(frozen=True)
class Result:
    """One algorithm at one size."""

    nbytes: int
    count: int
    algorithm: str
    out_of_place: Timing
    in_place: Timing | None
    """None where the call cannot be made in place"""

    @property
    def wrong(self) -> int:
        """Wrong values of all calls."""
        return sum(timing.wrong or 0 for timing in (self.out_of_place, self.in_place) if timing)


def bound(options: BenchOptions, ranks: int, nbytes: int, cluster: Cluster) -> Result:
    """The lower bound, as a result among the others."""
    least = Timing(cluster.lower_bound(options.collective, ranks, nbytes))
    return Result(nbytes, nbytes // options.dtype.itemsize, BOUND, least, least)


def bandwidths(
    options: BenchOptions, ranks: int, nbytes: int, seconds: float
) -> tuple[float, float]:
    """algbw and busbw, in bytes per second."""
    algbw = nbytes / seconds if seconds else math.inf
    factor = BUS[options.collective](ranks) if options.collective in BUS else (ranks - 1) / ranks
    return algbw, algbw * factor


TIMING_COLUMNS = {
    "time": ("(us)", 9), "p99": ("(us)", 9), "algbw": ("(GB/s)", 6), "busbw": ("(GB/s)", 6),
    "#wrong": ("", 6),
}  # fmt: skip
COLUMNS = [
    *{
        "size": ("(B)", 10), "count": ("(elements)", 10), "type": ("", 8), "redop": ("", 5),
        "root": ("", 4), "algorithm": ("", 18),
    }.items(),
    *TIMING_COLUMNS.items(),
    *TIMING_COLUMNS.items(),
    ("to mpi", ("(ratio)", 7)),
]  # fmt: skip
"""Titles, with units and widths: of the call, out of place, in place."""


def heading(options: BenchOptions, ranks: int, origin: Origin) -> str:
    """What was run and where, and the titles of the table."""
    first = sum(width + 1 for _, (_, width) in COLUMNS[:6])
    each = sum(width + 1 for _, (_, width) in COLUMNS[6:11])
    lines = [
        f"# rankwise bench {options.collective}, {ranks} ranks; {origin}",
        f"# time: median of {options.iters} calls, {options.warmup} to warm up; to mpi: how many "
        "times as fast as mpi, out of place",
    ]
    if options.cluster is None:
        lines.append("# no lower bound: --cluster FILE gives one; bench --fit FILE makes the file")
    return "\n".join(
        (
            *lines,
            " " * first + "out of place".rjust(each - 1) + " " + "in place".rjust(each - 1),
            row(title for title, _ in COLUMNS),
            row(unit for _, (unit, _) in COLUMNS),
        )
    )


def row(cells: Iterable[object]) -> str:
    """Cells under their titles."""
    widths = (width for _, (_, width) in COLUMNS)
    return " ".join(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))


def line(options: BenchOptions, ranks: int, result: Result, native: float | None) -> str:
    """A result as a line; `native` is the time of MPI's own call, in seconds."""
    spec = SPECS[options.collective]
    ratio = "-" if native is None else f"{native / result.out_of_place.seconds:.2f}"
    return row(
        (
            result.nbytes,
            result.count,
            options.datatype,
            options.op if spec.reduces else "none",
            options.root if spec.rooted else -1,
            result.algorithm,
            *_cells(options, ranks, result.nbytes, result.out_of_place),
            *_cells(options, ranks, result.nbytes, result.in_place),
            ratio,
        )
    )


def _cells(
    options: BenchOptions, ranks: int, nbytes: int, timing: Timing | None
) -> tuple[str, ...]:
    if timing is None:
        return ("-",) * len(TIMING_COLUMNS)
    algbw, busbw = bandwidths(options, ranks, nbytes, timing.seconds)
    return (
        f"{timing.seconds * 1e6:.1f}",
        "-" if timing.p99 is None else f"{timing.p99 * 1e6:.1f}",
        f"{algbw / 1e9:.2f}",
        f"{busbw / 1e9:.2f}",
        "-" if timing.wrong is None else str(timing.wrong),
    )


def record(options: BenchOptions, ranks: int, result: Result) -> dict[str, Any]:
    """A result by the names of its columns; times in seconds, rates in bytes per second."""
    spec = SPECS[options.collective]
    found: dict[str, Any] = {
        "size": result.nbytes,
        "count": result.count,
        "type": options.datatype,
        "redop": options.op if spec.reduces else "none",
        "root": options.root if spec.rooted else -1,
        "algorithm": result.algorithm,
    }
    for place in ("out_of_place", "in_place"):
        timing: Timing | None = getattr(result, place)
        rates: tuple[float | None, float | None] = None, None
        if timing is not None:
            rates = bandwidths(options, ranks, result.nbytes, timing.seconds)
        found[f"{place}_seconds"] = timing and timing.seconds
        found[f"{place}_p99_seconds"] = timing and timing.p99
        found[f"{place}_spread"] = timing and timing.spread
        found[f"{place}_algbw"], found[f"{place}_busbw"] = rates
        found[f"{place}_wrong"] = timing and timing.wrong
    return found


def write_csv(path: str, options: BenchOptions, ranks: int, results: Sequence[Result]) -> None:
    """One line for each result, below the names of the columns."""
    records = [record(options, ranks, result) for result in results]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def write_json(
    path: str, options: BenchOptions, ranks: int, results: Sequence[Result], origin: Origin
) -> None:
    """The results, with what was asked for and where it was measured."""
    given = {
        "format": 1,
        "ranks": ranks,
        "options": {**asdict(options), "ranks": ranks},
        "origin": asdict(origin),
        "results": [record(options, ranks, result) for result in results],
    }
    Path(path).write_text(json.dumps(given, indent=1) + "\n", encoding="utf-8")
