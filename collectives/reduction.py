"""What `op` may be: a name, a numpy ufunc, a builtin, or any function of two arrays."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import KERNELS, Kernel

Array = NDArray[Any]
Finish = Callable[[Array, int], None]  # of the reduced array and the number of ranks, in place
Op = str | Callable[..., Any]

TILE = 128 << 10  # bytes that a ufunc combines at a time, that they stay in cache


@dataclass(frozen=True)
class Reduction:
    """A binary operation on arrays.

    The operand of the lower ranks is the left one, unless it is `commutative`. An `elementwise`
    one takes any piece of an array, and all that are commutative are such. Any other gets whole
    arrays of the shape that the caller gave.
    """

    name: str
    function: Callable[..., Any]
    commutative: bool = True
    elementwise: bool = True
    finish: Finish | None = None
    tile: int = TILE
    """bytes that are best combined at a time"""
    rounds: bool = False
    """`function` takes float32 too, and rounds to a dtype of two bytes"""

    def many(self, operands: Sequence[Array], out: Array, copies: Sequence[Array] = ()) -> None:
        """Combine two or more flat operands from left to right, tile by tile.

        What rounds is accumulated in float32 and rounded once, at the end. `out` may be one of the
        operands. `copies` take the result too, while it is in cache.
        """
        length = self.tile // out.itemsize or 1
        is_pair = len(operands) == 2
        if is_pair and out.size <= length:
            self.function(*operands, out=out)
            for copy in copies:
                copy[...] = out
            return
        kind = np.dtype(np.float32) if self.rounds else out.dtype
        scratch = np.empty(0 if is_pair else min(length, out.size), kind)
        for start in range(0, out.size, length):
            tile = slice(start, start + length)
            left, *others = [operand[tile] for operand in operands]
            into = out[tile]
            for right in others[:-1]:
                total = scratch[: into.size]
                self.function(left, right, out=total)
                left = total
            self.function(left, others[-1], out=into)
            for copy in copies:
                copy[tile] = into


def divide(total: Array, size: int) -> None:
    """Turn a sum into a mean. `total` is C-contiguous."""
    kernel = find(np.divide, total.dtype)
    if kernel is None:
        np.divide(total, size, out=total)
        return
    flat = total.reshape(-1)
    length = kernel.tile // flat.itemsize
    sizes = np.full(min(length, flat.size), size, np.float32)
    for start in range(0, flat.size, length):
        tile = flat[start : start + length]
        kernel.function(tile, sizes[: tile.size], out=tile)


def to_truth(result: Array, size: int) -> None:
    """0 and 1 also where there was only one operand."""
    np.not_equal(result, 0, out=result)


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction("sum", np.add),
    "prod": Reduction("prod", np.multiply),
    "min": Reduction("min", np.minimum),
    "max": Reduction("max", np.maximum),
    "mean": Reduction("mean", np.add, finish=divide),
    "band": Reduction("band", np.bitwise_and),
    "bor": Reduction("bor", np.bitwise_or),
    "bxor": Reduction("bxor", np.bitwise_xor),
    "land": Reduction("land", np.logical_and, finish=to_truth),
    "lor": Reduction("lor", np.logical_or, finish=to_truth),
    "lxor": Reduction("lxor", np.logical_xor, finish=to_truth),
}

BUILTINS: dict[object, str] = {builtins.sum: "sum", builtins.min: "min", builtins.max: "max"}

KERNEL_NAMES: dict[Callable[..., Any], str] = {
    np.add: "sum", np.multiply: "prod", np.minimum: "min", np.maximum: "max", np.divide: "div",
}  # fmt: skip

# Operations that may be done in any order. Other ufuncs keep the order of ranks.
COMMUTATIVE = frozenset(
    {known.function for known in REDUCTIONS.values()}
    | {np.fmin, np.fmax, np.logaddexp, np.logaddexp2, np.hypot, np.gcd, np.lcm}
)


def reduction(op: Op, dtype: np.dtype[Any]) -> Reduction:
    """The reduction that `op` means for arrays of this dtype.

    ValueError for an unknown name, TypeError for a dtype that the operation does not have.
    """
    try:
        return checked(op, dtype)
    except TypeError as error:
        if "unhashable" in str(error):  # a callable object without a hash
            return resolved(op)
        raise


@functools.lru_cache(maxsize=1024)
def checked(op: Op, dtype: np.dtype[Any]) -> Reduction:
    """Resolve `op`, and try it on nothing."""
    found = resolved(op)
    if dtype.hasobject:
        raise TypeError(f"expected numbers to reduce, got dtype {dtype}")
    if found.name == "mean" and dtype.kind in "biu":
        raise TypeError(f"expected floating point for op 'mean', got {dtype}; use 'sum' or cast")
    kernel = find(found.function, dtype)
    if kernel is not None:
        return replace(found, function=kernel.function, tile=kernel.tile, rounds=kernel.rounds)
    if found.elementwise:
        nothing = np.empty(0, dtype)
        try:
            found.function(nothing, nothing, out=nothing)
        except TypeError as error:
            raise TypeError(f"op {found.name!r} is not defined for dtype {dtype}") from error
    return found


def resolved(op: Op) -> Reduction:
    """Look a name up, or wrap a function."""
    if not isinstance(op, str) and op in BUILTINS:
        op = BUILTINS[op]
    if isinstance(op, str):
        if op not in REDUCTIONS:
            raise ValueError(f"expected an op of {', '.join(REDUCTIONS)}, got {op!r}")
        return REDUCTIONS[op]
    if not callable(op):
        raise TypeError(f"expected a name or a function of two arrays as op, got {op!r}")
    name = getattr(op, "__name__", repr(op))
    if not isinstance(op, np.ufunc):
        return Reduction(name, op, commutative=False, elementwise=False)
    # One with a signature, such as matmul, combines whole dims.
    return Reduction(name, op, op in COMMUTATIVE, elementwise=op.signature is None)


def find(function: Callable[..., Any], dtype: np.dtype[Any]) -> Kernel | None:
    """The kernel that does for this dtype what a ufunc does; None where numpy's own is best."""
    op = KERNEL_NAMES.get(function)
    return KERNELS.get((op, dtype.name)) if op is not None and dtype.isnative else None


def put(op: str, dtype: str, kernel: Kernel) -> None:
    """Reduce so from now on: sum, prod, div (of a mean), min or max of float16 or bfloat16.

    All ranks need kernels that give the same bits.
    """
    if (op, dtype) not in KERNELS:
        known = ", ".join(" ".join(key) for key in KERNELS)
        raise ValueError(f"expected an operation and a dtype of {known}, got {op} {dtype}")
    KERNELS[op, dtype] = kernel
    checked.cache_clear()
