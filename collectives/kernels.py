"""Reductions of float16 and bfloat16, computed in float32 and rounded once.

numpy adds either one element after another. It is faster to widen tiles to float32, combine them
and round to nearest even, which for a sum, product or quotient of two gives the same bits. Where
numba is installed (the extra `kernels`), compiled.py does it in one pass over the operands.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Operation = Callable[..., object]  # (left, right, *, out), flat and C-contiguous

TILE = 32 << 10  # bytes that are combined at a time, that the accumulator stays in cache
TILE_ELEMENTS = 64 << 10  # that two of float32 stay in the second level, measured on Zen 4
HALF_TILE = 2 * TILE_ELEMENTS  # bytes
# Elements below which numpy's conversions take less than the calls to avoid them.
FEW_TO_ADD, FEW_ELEMENTS = 6 << 10, 10 << 10


class Kernel(NamedTuple):
    """An operation on a dtype of two bytes, of which `left`, `right` and `out` may be float32.

    Its result for an element depends on nothing but the element: ranks must agree to the bit.
    """

    function: Operation
    rounds: bool = True
    """the result in float32 may be no number of the dtype; else all three are of the dtype"""
    tile: int = TILE
    """bytes from which a call is worth its overhead"""


def in_float32(ufunc: np.ufunc, left: Array, right: Array, *, out: Array) -> None:
    """Combine by a ufunc on float32, and let numpy convert. `out` may be one of the operands."""
    ufunc(left, right, out=out, dtype=np.float32, casting="unsafe")


def half_in_float32(ufunc: np.ufunc, left: Array, right: Array, *, out: Array) -> None:
    """The same with faster conversions of float16."""
    if out.size < (FEW_TO_ADD if ufunc is np.add else FEW_ELEMENTS):
        half_by_numpy(ufunc, left, right, out)
        return
    for tile in tiles(out.size):
        x, y, into = left[tile], right[tile], out[tile]
        is_done = added(x, y, into) if ufunc is np.add else combined(ufunc, x, y, into)
        if not is_done:
            half_by_numpy(ufunc, x, y, into)


def half_by_numpy(ufunc: np.ufunc, left: Array, right: Array, out: Array) -> None:
    """Leave it to numpy, whose own loop of float16 computes in float32 as well."""
    if left.dtype == right.dtype == out.dtype:
        ufunc(left, right, out=out)
    else:
        in_float32(ufunc, left, right, out=out)


def tiles(count: int) -> Iterator[slice]:
    """Pieces of so many elements."""
    return (slice(start, start + TILE_ELEMENTS) for start in range(0, count, TILE_ELEMENTS))


# numpy converts float16 in 2 ns an element either way, and an operation on 32-bit integers takes
# 0.06 ns: a dozen of them are faster. A float16 has 1 + 5 + 10 bits of sign, exponent and
# fraction, float32 has 1 + 8 + 23, and their exponents are biased by 15 and 127. So the bits of a
# float16, put where float32 has them, are x * 2**-112, subnormal or not; and the other way round,
# the upper bits of such a number, rounded as an integer, are the nearest float16. Infinity and NaN
# would be numbers like others: what has any is left to numpy, as are results that do not fit.
# Scalars are arrays, which numpy takes in half the time.
SCALE = np.array(2.0**-112, np.float32)
UNSCALE = np.array(2.0**112, np.float32)
HALF_BITS = np.array(-(1 << 31) | 0x7FFF << 13, np.int32)  # of a sign and a float16, in a float32
HALF_SIGN = np.array(0x8000, np.uint32)
HALF_INFINITE = 0x7C00
HALF_SUMMABLE = 0x7800  # 32768: two of less make no infinity
HALF_LARGEST = 65504.0
HALF_NAN_COUNT = 0x7FFF - 0x7C00  # of either sign
DROPPED = np.array(23 - 10, np.uint32)  # bits of the fraction
DROPPED_INT = DROPPED.astype(np.int32)
HALFWAY = np.array((1 << 12) - 1, np.uint32)  # just less than half of the last bit
ONE, SIXTEEN = np.array(1, np.uint32), np.array(16, np.uint32)


def added(left: Array, right: Array, out: Array) -> bool:
    """Add; False, with nothing written, where numpy must convert.

    The sum of two float16 times 2**-112 is exact where float32 has subnormals: it is rounded once.
    """
    if left.dtype != np.float16 or right.dtype != np.float16:
        return combined(np.add, left, right, out)
    if not (is_below(HALF_SUMMABLE, left) and is_below(HALF_SUMMABLE, right)):
        return False
    total, scratch = placed(left), placed(right)
    np.add(total, scratch, total)
    if out.dtype == np.float32:
        np.multiply(total, UNSCALE, out)
    else:
        round_into(out, total, scratch)
    return True


def combined(ufunc: np.ufunc, left: Array, right: Array, out: Array) -> bool:
    """Combine in float32; False, with nothing written, where numpy must convert."""
    wide = [x if x.dtype == np.float32 else widened(x) for x in (left, right)]
    if wide[0] is None or wide[1] is None:
        return False
    if out.dtype == np.float32:
        ufunc(*wide, out)
        return True
    result = ufunc(*wide)
    if not (result.max() <= HALF_LARGEST and result.min() >= -HALF_LARGEST):
        return False
    scaled, scratch = np.multiply(result, SCALE), np.empty_like(result)
    np.multiply(scaled, UNSCALE, scratch)
    if not np.array_equal(scratch, result):  # among subnormals, which would be rounded twice
        return False
    round_into(out, scaled, scratch)
    return True


def is_below(limit: int, x: NDArray[np.float16]) -> bool:
    """Whether all are smaller than what has these bits, of either sign."""
    largest = np.maximum.reduce
    signed = x.view(np.int16)
    return bool(largest(signed) < limit and largest(signed.view(np.uint16)) < limit | 0x8000)


def placed(x: NDArray[np.float16]) -> Floats:
    """The bits where float32 has them."""
    bits = x.view(np.int16).astype(np.int32)  # the sign is in all upper bits
    np.left_shift(bits, DROPPED_INT, bits)
    np.bitwise_and(bits, HALF_BITS, bits)
    return bits.view(np.float32)


def widened(x: NDArray[np.float16]) -> Floats | None:
    """The same numbers in float32; None if not all are finite."""
    if not is_below(HALF_INFINITE, x):
        return None
    wide = placed(x)
    np.multiply(wide, UNSCALE, wide)
    return wide


def round_into(out: NDArray[np.float16], scaled: Floats, scratch: Floats) -> None:
    """Round numbers times 2**-112, of which none is too large, to nearest even; both are used up.

    Half of the last bit is added, or just less where the bit before it is even.
    """
    bits, rounded = scaled.view(np.uint32), scratch.view(np.uint32)
    np.right_shift(bits, DROPPED, rounded)
    np.bitwise_and(rounded, ONE, rounded)
    np.add(rounded, HALFWAY, rounded)
    np.add(rounded, bits, rounded)
    np.right_shift(rounded, DROPPED, rounded)
    np.right_shift(bits, SIXTEEN, bits)
    np.bitwise_and(bits, HALF_SIGN, bits)
    np.bitwise_or(rounded, bits, rounded)
    np.copyto(out.view(np.uint16), rounded, casting="unsafe")


def extreme_half(ufunc: np.ufunc, left: Array, right: Array, *, out: Array) -> None:
    """The larger or smaller of float16, as integers; NaN wherever one is."""
    nan = np.int16(HALF_NAN_COUNT if ufunc is np.maximum else -HALF_NAN_COUNT)
    for tile in tiles(out.size):
        key = ordered(left[tile].view(np.int16))
        other = ordered(right[tile].view(np.int16))
        # NaN of either sign lie at the ends; turned by so many, those of one end join the other's.
        np.subtract(key, nan, out=key)
        np.subtract(other, nan, out=other)
        ufunc(key, other, out=key)
        np.add(key, nan, out=key)
        out[tile].view(np.int16)[...] = ordered(key)


def ordered(x: NDArray[np.int16]) -> NDArray[np.int16]:
    """Integers that lie as the floating-point numbers do; its own inverse."""
    turned = np.right_shift(x, np.int16(15))
    np.bitwise_and(turned, np.int16(0x7FFF), out=turned)
    return np.bitwise_xor(turned, x, out=turned)


def compiled(op: str, left: Array, right: Array, *, out: Array) -> None:
    """Combine by a loop that numba compiles at its first use, in about a second."""
    loops()(op, left, right, out=out)


@functools.cache
def loops() -> Operation:
    """numba is slow to import, too."""
    from .compiled import combine

    return combine


HAS_NUMBA = importlib.util.find_spec("numba") is not None

KERNELS: dict[tuple[str, str], Kernel] = {
    ("sum", "float16"): Kernel(functools.partial(half_in_float32, np.add), tile=HALF_TILE),
    ("prod", "float16"): Kernel(functools.partial(half_in_float32, np.multiply), tile=HALF_TILE),
    ("div", "float16"): Kernel(functools.partial(half_in_float32, np.divide), tile=HALF_TILE),
    ("min", "float16"): Kernel(functools.partial(extreme_half, np.minimum), rounds=False),
    ("max", "float16"): Kernel(functools.partial(extreme_half, np.maximum), rounds=False),
    ("sum", "bfloat16"): Kernel(functools.partial(in_float32, np.add)),
    ("prod", "bfloat16"): Kernel(functools.partial(in_float32, np.multiply)),
    ("div", "bfloat16"): Kernel(functools.partial(in_float32, np.divide)),
    ("min", "bfloat16"): Kernel(functools.partial(in_float32, np.minimum), rounds=False),
    ("max", "bfloat16"): Kernel(functools.partial(in_float32, np.maximum), rounds=False),
}
"""By operation and name of the dtype; what is not here is left to numpy."""

if HAS_NUMBA:
    KERNELS |= {
        (op, dtype): known._replace(function=functools.partial(compiled, op))
        for (op, dtype), known in KERNELS.items()
    }
