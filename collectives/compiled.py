"""Reductions of float16 and bfloat16 in one pass, compiled by numba (the extra `kernels`).

A loop is made at its first use with the dtypes that come. All is arithmetic of IEEE 754 in float32
and one rounding, so every machine gets the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]
Decorator = Callable[[Any], Any]

jit: Decorator = numba.njit(nogil=True, error_model="numpy")  # a division by zero is infinite
emitted: Decorator = intrinsic


@emitted
def half_to_float(_: Any, x: Any) -> Any:
    """The number that 16 bits stand for; one instruction on most processors."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), emit


@emitted
def float_to_half(_: Any, x: Any) -> Any:
    """The 16 bits of a number, rounded to nearest even."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        half = builder.fptrunc(arguments[0], ir.HalfType())
        return builder.bitcast(half, ir.IntType(16))

    return numba.uint16(numba.float32), emit


@jit
def bfloat_to_float(x: Any) -> Any:
    # numba makes 64 bits of every operation on integers.
    return np.uint32(x << 16).view(np.float32)


@jit
def float_to_bfloat(x: Any) -> Any:
    """Add half a step, or just less where the bit before it is even, and cut.

    The NaN that operands of 16 bits make have zeros in the lower bits, and stay NaN.
    """
    bits = np.float32(x).view(np.uint32)
    odd = (bits >> 16) & 1
    return np.uint16((bits + 0x7FFF + odd) >> 16)


@jit
def same(x: Any) -> Any:
    return x


WIDEN = {"float16": half_to_float, "bfloat16": bfloat_to_float, "float32": same}
NARROW = {"float16": float_to_half, "bfloat16": float_to_bfloat, "float32": same}

# The larger and smaller are numpy's: NaN if either is, the right operand if they are equal.
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": jit(lambda x, y: x + y),
    "prod": jit(lambda x, y: x * y),
    "min": jit(lambda x, y: x if x < y or x != x else y),
    "max": jit(lambda x, y: x if x > y or x != x else y),
    "div": jit(lambda x, y: x / y),
}


def combine(op: str, left: Array, right: Array, *, out: Array) -> None:
    """Combine flat arrays of one of these dtypes or float32; `out` may be one of them."""
    loop(op, left.dtype, right.dtype, out.dtype)(plain(left), plain(right), plain(out))


def plain(x: Array) -> Array:
    """The bits of what numba has no arithmetic for."""
    return x if x.itemsize == 4 else x.view(np.uint16)


@functools.cache
def loop(op: str, left: np.dtype[Any], right: np.dtype[Any], out: np.dtype[Any]) -> Any:
    """The loop for operands and a result of these dtypes."""
    operate, narrow = OPERATIONS[op], NARROW[out.name]
    widen_left, widen_right, widen_out = (WIDEN[dtype.name] for dtype in (left, right, out))

    # In place is told apart, because a compiler cannot vectorize what may overlap elsewhere.
    @jit
    def compiled(x: Array, y: Array, into: Array) -> None:
        if x.ctypes.data == into.ctypes.data:
            for k in range(into.size):
                into[k] = narrow(operate(widen_out(into[k]), widen_right(y[k])))
        elif y.ctypes.data == into.ctypes.data:
            for k in range(into.size):
                into[k] = narrow(operate(widen_left(x[k]), widen_out(into[k])))
        else:
            for k in range(into.size):
                into[k] = narrow(operate(widen_left(x[k]), widen_right(y[k])))

    return compiled
