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
TILE_ELEMENTS = 16 << 10  # that a float32 scratch stays in the second level, measured on Zen 4
FEW_ELEMENTS = 8 << 10  # below which numpy's conversions take less than the calls to avoid them


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
    if out.size < FEW_ELEMENTS:
        in_float32(ufunc, left, right, out=out)
        return
    for tile in tiles(out.size):
        into = out[tile]
        wide = into if out.dtype == np.float32 else np.empty(into.size, np.float32)
        ufunc(widened(left[tile]), widened(right[tile]), out=wide)
        if wide is not into:
            narrow_half(wide, into)


def tiles(count: int) -> Iterator[slice]:
    """Pieces of so many elements."""
    return (slice(start, start + TILE_ELEMENTS) for start in range(0, count, TILE_ELEMENTS))


def widened(x: Array) -> Floats:
    """The same numbers in float32; the array itself if it is."""
    if x.dtype == np.float32:
        return x
    wide = np.empty(x.size, np.float32)
    widen_half(x, wide)
    return wide


# numpy converts float16 in 1.4 ns (widening) and 4 ns (rounding) an element, and an operation on
# 32-bit integers takes 0.1 ns: a dozen of them are faster. A float16 has 1 + 5 + 10 bits of sign,
# exponent and fraction, float32 has 1 + 8 + 23, and their exponents are biased by 15 and 127.
HALF_BIAS = np.float32(2.0 ** (127 - 15))
HALF_BITS = np.int32(-(1 << 31) | 0x7FFF << 13)  # of a sign and a float16, in a float32
HALF_INFINITE = np.uint16(0x7C00)  # the exponent of infinity and NaN
HALF_NAN = np.uint16(0x7E00)
HALF_NAN_COUNT = 0x7FFF - 0x7C00  # of either sign
EXPONENT = np.uint32(0x7F800000)  # the bits of a float32, and infinity
MAGNITUDE = np.uint32(0x7FFFFFFF)
TOO_LARGE = np.uint32(127 + 16 << 23)  # 65536, which is infinite in float16
DROPPED = np.uint32(23 - 10)  # bits of the fraction
# An array, since numpy is slow to take the larger of an array and a scalar.
LEAST_NORMAL = np.full(TILE_ELEMENTS, 127 - 14 << 23, np.uint32)  # 2**-14, the least exponent


def widen_half(x: NDArray[np.float16], out: Floats) -> None:
    """Move the bits to their places, and mend the bias by a product; that also normalizes."""
    bits = out.view(np.int32)
    bits[...] = x.view(np.int16)  # the sign is in all upper bits now
    np.left_shift(bits, np.int32(23 - 10), out=bits)
    np.bitwise_and(bits, HALF_BITS, out=bits)
    np.multiply(out, HALF_BIAS, out=out)
    exponents = np.bitwise_and(x.view(np.uint16), HALF_INFINITE)
    if exponents.max(initial=0) == HALF_INFINITE:
        np.bitwise_or(out.view(np.uint32), EXPONENT, out=out.view(np.uint32),
                      where=exponents == HALF_INFINITE)  # fmt: skip


def narrow_half(wide: Floats, out: NDArray[np.float16]) -> None:
    """Let a float32 addition round; at most TILE_ELEMENTS.

    To x in [2**e, 2**(e + 1)) is added 2**(e + 13). The last bit of the sum then stands for
    2**(e - 10), as that of a float16 does, and the sum's fraction is k = x / 2**(e - 10). So the
    float16 has the bits ((e + 14) << 10) + k: the leading one of k adds 1 to the exponent, and
    twice so much carries into it. Below 2**-14, e stays -14.
    """
    words = wide.view(np.uint32)
    magnitude = np.bitwise_and(words, MAGNITUDE)
    largest = magnitude.max(initial=0)
    if largest > TOO_LARGE:
        np.minimum(magnitude, TOO_LARGE, out=magnitude)
    power = np.bitwise_and(magnitude, EXPONENT)
    np.maximum(power, LEAST_NORMAL[: power.size], out=power)
    np.add(power, DROPPED << np.uint32(23), out=power)
    np.add(power.view(np.float32), magnitude.view(np.float32), out=power.view(np.float32))
    halves = out.view(np.uint16)
    # The sum's exponent is e + 13 + 127, in bits of no use here, and again where float16 has it.
    np.right_shift(power, DROPPED, out=magnitude)
    np.add(magnitude, power, out=magnitude)
    np.copyto(halves, magnitude, casting="unsafe")
    np.subtract(halves, np.uint16((13 + 127 - 14) << 10 & 0xFFFF), out=halves)
    if largest > EXPONENT:
        np.copyto(halves, HALF_NAN, where=np.isnan(wide))
    np.right_shift(words, np.uint32(16), out=magnitude)
    signs = magnitude.astype(np.uint16)
    np.bitwise_and(signs, np.uint16(0x8000), out=signs)
    np.bitwise_or(halves, signs, out=halves)


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
    ("sum", "float16"): Kernel(functools.partial(half_in_float32, np.add)),
    ("prod", "float16"): Kernel(functools.partial(half_in_float32, np.multiply)),
    ("div", "float16"): Kernel(functools.partial(half_in_float32, np.divide)),
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
