"""The verb bench: every algorithm of a collective and MPI's own call, by size, in one run.

The columns are those of nccl-tests. Algorithms take turns, in the other direction every other
time; a barrier comes before each call; the time of a call is that of the slowest rank, and what is
printed is the median over the iterations. Buffers rotate, so that none is warm from the call
before. Inputs are small integers, whose results are exact in every dtype.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..collectives import Communicator
from ..collectives.specs import SPECS
from ..collectives.table import TABLE, lookup
from .agreement import together

Array = npt.NDArray[Any]

BUFFERS = 4
"""Pairs of input and output that take turns."""

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "half": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
}
"""By the names of nccl-tests."""

OPS: dict[str, np.ufunc] = {
    "sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum
}  # fmt: skip

BUS: dict[str, Callable[[int], float]] = {
    "allreduce": lambda n: 2 * (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "reduce": lambda n: 1.0,
}
"""Bytes that pass the slowest link for each byte of the size, by ranks; else (n - 1) / n."""


@dataclass(frozen=True)
class BenchOptions:
    """What the command line asks for."""

    collective: str
    ranks: int | None = None
    minbytes: str = "8"
    maxbytes: str = "64M"
    stepfactor: int = 2
    iters: int = 20
    warmup: int = 3
    datatype: str = "float"
    op: str = "sum"
    root: int = 0
    algorithm: tuple[str, ...] | None = None


class Problem(NamedTuple):
    """One size: what goes in on this rank, what must come out, how much nccl-tests calls it."""

    x: Array | None
    expected: Array | None
    elements: int
    nbytes: int


def parse_bytes(text: str) -> int:
    """Read a number of bytes such as 8, 64K, 1M. Raises ValueError.

    >>> parse_bytes("64K")
    65536
    """
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not digits.isdecimal() or unit not in ("", *UNITS):
        raise ValueError(f"expected a number of bytes such as 8, 64K or 1M, got {text!r}")
    return int(digits) * UNITS.get(unit, 1)


def bench(options: BenchOptions, comm: Communicator) -> int:
    """Measure, and print as results come; return 1 if any was wrong. Collective."""
    names, sizes = together(comm, lambda: _checked(options, comm))
    dtype = np.dtype(DTYPES[options.datatype])
    if comm.rank == 0:
        print(_heading(options, comm.size), flush=True)
    wrong = 0
    for nbytes in sizes:
        problem = _problem(options, comm, nbytes, dtype)
        times, errors = _measured(options, comm, problem, names)
        wrong += sum(errors.values())
        if comm.rank == 0:
            for name in names:
                print(_line(options, comm.size, problem, name, times, errors[name]), flush=True)
    if comm.rank == 0:
        print(f"# {wrong} wrong values")
    return int(wrong > 0)


def _checked(options: BenchOptions, comm: Communicator) -> tuple[list[str], list[int]]:
    """Return the algorithms and the sizes in bytes. Raises ValueError."""
    if options.ranks is not None and options.ranks != comm.size:
        raise ValueError(f"mpirun has started {comm.size} ranks, but -n is {options.ranks}")
    if options.collective == "barrier" or options.collective not in TABLE:
        known = ", ".join(name for name in TABLE if name != "barrier")
        raise ValueError(f"expected a collective of {known}, got {options.collective!r}")
    if not 0 <= options.root < comm.size:
        raise ValueError(f"expected --root from 0 to {comm.size - 1}, got {options.root}")
    for name, least in (("stepfactor", 2), ("iters", 1), ("warmup", 0)):
        if getattr(options, name) < least:
            raise ValueError(
                f"expected --{name} of at least {least}, got {getattr(options, name)}"
            )
    for name, choices in (("datatype", list(DTYPES)), ("op", list(OPS))):
        if getattr(options, name) not in choices:
            raise ValueError(
                f"expected --{name} of {', '.join(choices)}, got {getattr(options, name)!r}"
            )
    for name in options.algorithm or ():
        if name not in ("auto", "mpi"):
            lookup(options.collective, name)
    names = list(options.algorithm or (*TABLE[options.collective], "auto", "mpi"))
    low, high = parse_bytes(options.minbytes), parse_bytes(options.maxbytes)
    if not 0 < low <= high:
        raise ValueError(f"expected -b of at least 1 and -e of at least -b, got {low} and {high}")
    return names, list(_sizes(low, high, options.stepfactor))


def _sizes(low: int, high: int, factor: int) -> Iterator[int]:
    while low <= high:
        yield low
        low *= factor


def _problem(
    options: BenchOptions, comm: Communicator, nbytes: int, dtype: np.dtype[Any]
) -> Problem:
    """Make the inputs of all ranks, and what this one must get."""
    ranks, root = comm.size, options.root
    count = max(1, nbytes // dtype.itemsize)
    lengths = [count] * ranks
    if options.collective in ("allgather", "gather"):
        lengths = [len(part) for part in np.array_split(np.arange(count), ranks)]
    inputs = [_values(rank, length, dtype) for rank, length in enumerate(lengths)]
    is_root = comm.rank == root or not SPECS[options.collective].rooted
    given = is_root or options.collective not in ("broadcast", "scatter")
    return Problem(
        inputs[comm.rank] if given else None,
        _expected(options, inputs, comm.rank) if is_root or _is_for_all(options) else None,
        count,
        count * dtype.itemsize,
    )


def _is_for_all(options: BenchOptions) -> bool:
    return options.collective not in ("gather", "reduce")


def _expected(options: BenchOptions, inputs: list[Array], rank: int) -> Array:
    """Return what a rank must get, found with numpy."""
    ranks = len(inputs)
    match options.collective:
        case "broadcast":
            return inputs[options.root]
        case "scatter":
            return np.array_split(inputs[options.root], ranks)[rank]
        case "allgather" | "gather":
            return np.concatenate(inputs)
        case "alltoall":
            return np.concatenate([np.array_split(x, ranks)[rank] for x in inputs])
    reduced: Array = functools.reduce(OPS[options.op], inputs)
    return np.array_split(reduced, ranks)[rank] if "scatter" in options.collective else reduced


def _values(rank: int, count: int, dtype: np.dtype[Any]) -> Array:
    """Return 1, 2, 1, ... from another place on each rank: sums and products stay exact."""
    return ((np.arange(count) + rank) % 2 + 1).astype(dtype)


def _measured(
    options: BenchOptions, comm: Communicator, problem: Problem, names: list[str]
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the seconds of each iteration on the slowest rank, and the wrong values of all."""
    buffers = [None if problem.x is None else problem.x.copy() for _ in range(BUFFERS)]
    seconds = {name: np.zeros(options.iters) for name in names}
    errors = dict.fromkeys(names, 0)
    for k in range(-options.warmup, options.iters):
        for name in names if k % 2 else reversed(names):
            x = buffers[k % BUFFERS]
            comm.barrier()
            start = time.perf_counter()
            made = _call(options, comm, x, name)
            if k >= 0:
                seconds[name][k] = time.perf_counter() - start
            if problem.expected is not None and made is not None:
                errors[name] += int((made != problem.expected).sum())
    slowest = {name: comm.allreduce(all_of, op="max") for name, all_of in seconds.items()}
    counted = comm.allreduce(np.array(list(errors.values())))
    return slowest, dict(zip(names, counted.tolist(), strict=True))


def _call(options: BenchOptions, comm: Communicator, x: Array | None, name: str) -> Any:
    keywords: dict[str, Any] = {"algorithm": name}
    if SPECS[options.collective].rooted:
        keywords["root"] = options.root
    if SPECS[options.collective].reduces:
        keywords["op"] = options.op
    return getattr(comm, options.collective)(x, **keywords)


COLUMNS = {
    "size": ("(B)", 11),
    "count": ("(elements)", 11),
    "type": ("", 8),
    "redop": ("", 5),
    "root": ("", 4),
    "algorithm": ("", 18),
    "time": ("(us)", 10),
    "spread": ("", 6),
    "algbw": ("(GB/s)", 7),
    "busbw": ("(GB/s)", 7),
    "#wrong": ("", 6),
    "to mpi": ("(ratio)", 7),
}
"""Titles, with units and widths."""


def _heading(options: BenchOptions, ranks: int) -> str:
    note = (
        f"# rankwise bench {options.collective}, {ranks} ranks, median of {options.iters} calls, "
        f"{options.warmup} to warm up; spread: upper over lower quartile"
    )
    return "\n".join((note, _row(COLUMNS), _row(unit for unit, _ in COLUMNS.values())))


def _row(cells: Iterable[object]) -> str:
    widths = (width for _, width in COLUMNS.values())
    return "  ".join(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))


def _line(
    options: BenchOptions,
    ranks: int,
    problem: Problem,
    name: str,
    times: dict[str, Array],
    wrong: int,
) -> str:
    low, seconds, high = np.quantile(times[name], (0.25, 0.5, 0.75)).tolist()
    algbw = problem.nbytes / seconds / 1e9
    factor = BUS[options.collective](ranks) if options.collective in BUS else (ranks - 1) / ranks
    spec = SPECS[options.collective]
    return _row(
        (
            problem.nbytes,
            problem.elements,
            options.datatype,
            options.op if spec.reduces else "none",
            options.root if spec.rooted else -1,
            name,
            f"{seconds * 1e6:.1f}",
            f"{high / low:.2f}",
            f"{algbw:.2f}",
            f"{algbw * factor:.2f}",
            wrong,
            f"{np.median(times['mpi']) / seconds:.2f}" if "mpi" in times else "-",
        )
    )
