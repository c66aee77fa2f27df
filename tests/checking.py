"""Checks: functions of a communicator that every rank calls, between threads or under mpirun.

    mpirun -n 3 python checking.py test_reductions test_moves

A module of tests names its own in CHECKS.
"""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rankwise.collectives import Communicator, communicator, local
from rankwise.collectives.table import TABLE

Array = np.ndarray[Any, np.dtype[Any]]
Check = Callable[[Communicator], None]

NUMBERS = [
    *"?bhilqBHILQefdgFDG", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    ">i4", ">f8",
]  # fmt: skip
OTHERS = ["S3", "U2", "M8[s]", "m8[ns]", "V5", [("a", "i4"), ("b", "f8", (2,))]]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (4, 0), (2, 3, 4)]


def into(checks: list[Check]) -> Callable[[Check], Check]:
    """A decorator that names a check among those of its module."""

    def named(check: Check) -> Check:
        checks.append(check)
        return check

    return named


def between_threads(checks: Sequence[Check]) -> pytest.MarkDecorator:
    """Run a test with each of these checks, as `check`."""
    return pytest.mark.parametrize("check", checks, ids=lambda check: str(check.__name__))


def hold_between_threads(check: Check) -> None:
    """Run a check on several numbers of ranks."""
    for size in (1, 2, 3, 4, 7):
        local.run(size, check)


def names(collective: str) -> list[str]:
    return [*TABLE[collective], "auto", "mpi"]


def ordered(collective: str) -> list[str]:
    """The algorithms that functions of whole arrays may use."""
    return [name for name, e in TABLE[collective].items() if e.ordered and e.whole]


def operand(rank: int, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """Small whole numbers, different on each rank: every sum of them is exact in every dtype."""
    return ((np.arange(np.prod(shape, dtype=int)) + 2 * rank) % 3).reshape(shape).astype(dtype)


def operands(comm: Communicator, shape: tuple[int, ...], dtype: Any = np.float64) -> list[Array]:
    return [operand(rank, shape, dtype) for rank in range(comm.size)]


def total(arrays: list[Array]) -> Array:
    return functools.reduce(lambda a, b: np.asarray(a + b, a.dtype), arrays)


def same(got: Array | None, expected: Array) -> None:
    """Equal in every bit, dtype and shape, and in C order."""
    assert got is not None and got.flags.c_contiguous
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if got.dtype.char in "gG":  # has bytes that mean nothing
        np.testing.assert_array_equal(got, expected)
    else:
        assert got.tobytes() == expected.tobytes(), (got, expected)


def same_none(got: object) -> None:
    assert got is None


def bent(x: Array) -> list[Array]:
    """The same elements in other orders of memory."""
    every_second: Any = (Ellipsis, *[slice(None, None, 2)] * x.ndim)
    spread = np.zeros([2 * n for n in x.shape], x.dtype)[every_second]
    spread[...] = x
    turned = np.flip(np.flip(x).copy()) if x.ndim else x
    return [x, np.asfortranarray(x).reshape(x.shape, order="F"), spread, turned]


def main(modules: Sequence[str]) -> None:
    """Run all checks of these modules on the world."""
    comm = communicator.create()
    checks = [check for name in modules for check in importlib.import_module(name).CHECKS]
    for check in checks:
        try:
            check(comm)
        except BaseException:
            print(f"rank {comm.rank}, {check.__name__}:", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            comm.abort(1)
    comm.free()
    if comm.rank == 0:
        print("checked", len(checks))


if __name__ == "__main__":
    main(sys.argv[1:])
