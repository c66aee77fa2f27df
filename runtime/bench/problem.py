"""One collective at one size: what goes in on this rank, what must come out, and in which memory.

Inputs are small whole numbers, whose results are exact in every dtype. In place means what it
means to MPI: where a rank gives a part of what it gets, or gets a part of what it gives, that part
lies in the same memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...collectives import Communicator
from ...collectives.specs import SPECS
from .options import OPS, BenchOptions

Array = npt.NDArray[Any]


class Memory(NamedTuple):
    """Where a call finds its input and leaves its result; None where a rank has none."""

    x: Array | None
    out: Array | None


@dataclass(frozen=True)
class Problem:
    """The input and the result of this rank, None where it has none."""

    x: Array | None
    expected: Array | None
    count: int
    """elements of what nccl-tests calls the size"""
    start: int
    """where this rank's part begins in the whole"""
    has_in_place: bool
    """an alltoall of unequal parts gives and gets different numbers of elements"""

    @classmethod
    def of(cls, options: BenchOptions, comm: Communicator, nbytes: int) -> Problem:
        """Make this rank's part, with numpy alone."""
        count = nbytes // options.dtype.itemsize
        spec = SPECS[options.collective]
        is_root = comm.rank == options.root or not spec.rooted
        gives = is_root or options.collective not in ("broadcast", "scatter")
        gets = is_root or options.collective not in ("gather", "reduce")
        return cls(
            _input(options, comm.rank, comm.size, count) if gives else None,
            _expected(options, comm.rank, comm.size, count) if gets else None,
            count,
            cut(count, comm.size, comm.rank).start,
            options.collective != "alltoall" or count % comm.size == 0,
        )

    def memory(self, *, in_place: bool) -> Memory:
        """New memory for one call."""
        if not in_place or self.x is None or self.expected is None:
            return self.reset(Memory(_like(self.x), _like(self.expected)))
        longer, shorter = sorted((self.x, self.expected), key=len, reverse=True)
        whole = np.empty_like(longer)
        if len(shorter) == len(longer):
            return self.reset(Memory(whole, whole))
        part = whole[self.start : self.start + len(shorter)]
        return self.reset(Memory(whole, part) if longer is self.x else Memory(part, whole))

    def reset(self, memory: Memory) -> Memory:
        """Put the input back, and wipe out the result that a call has left."""
        if memory.out is not None:
            memory.out.fill(0)  # which is no right result
        if memory.x is not None:
            memory.x[...] = self.x
        return memory

    def wrong(self, made: Array | None) -> int:
        """How many values of a result are not what they must be."""
        if self.expected is None:
            return 0
        return len(self.expected) if made is None else int((made != self.expected).sum())


def cut(count: int, ranks: int, rank: int) -> slice:
    """The part of a rank, as numpy.array_split cuts."""
    each, more = divmod(count, ranks)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def _like(array: Array | None) -> Array | None:
    return None if array is None else np.empty_like(array)


def _values(options: BenchOptions, rank: int, where: slice) -> Array:
    """A rank's 1, 2, 1, ..., from another place on each: sums and products stay exact."""
    places = np.arange(where.start, where.stop)
    return ((places + rank) % 2 + 1).astype(options.dtype)


def _input(options: BenchOptions, rank: int, ranks: int, count: int) -> Array:
    gathers = options.collective in ("allgather", "gather")
    return _values(options, rank, cut(count, ranks, rank) if gathers else slice(0, count))


def _expected(options: BenchOptions, rank: int, ranks: int, count: int) -> Array:
    """What a rank must get, found with numpy."""
    mine, whole = cut(count, ranks, rank), slice(0, count)
    match options.collective:
        case "broadcast":
            return _values(options, options.root, whole)
        case "scatter":
            return _values(options, options.root, mine)
        case "allgather" | "gather":
            parts = (_input(options, other, ranks, count) for other in range(ranks))
            return np.concatenate(list(parts))
        case "alltoall":
            return np.concatenate([_values(options, other, mine) for other in range(ranks)])
    where = mine if options.collective == "reduce_scatter" else whole
    inputs: Iterator[Array] = (_values(options, other, where) for other in range(ranks))
    return functools.reduce(OPS[options.op], inputs)
