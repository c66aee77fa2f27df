"""What `op` may be: a name, a numpy ufunc, a builtin, or any function of two arrays."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Finish = Callable[[Array, int], None]  # of the reduced array and the number of ranks, in place
Op = str | Callable[..., Any]


@dataclass(frozen=True)
class Reduction:
    """A binary operation on arrays.

    `commutative` ones work element by element, on any piece of an array. Any other is called with
    whole arrays of the shape that the caller gave, the one of the lower ranks on the left.
    """

    name: str
    function: Callable[..., Any]
    commutative: bool = True
    finish: Finish | None = None


def divide(total: Array, size: int) -> None:
    """Turn a sum into a mean."""
    np.divide(total, size, out=total)


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
    if found.commutative:
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
    return Reduction(name, op, commutative=isinstance(op, np.ufunc) and op in COMMUTATIVE)
