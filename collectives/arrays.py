"""What callers hand in: inputs of all kinds, and the arrays that take results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .blocks import Shape

Array = NDArray[Any]


def as_array(x: ArrayLike | None) -> Array:
    """An array of anything that has bytes to send."""
    if x is None:
        raise TypeError("expected an array or a list from this rank, got None")
    array = np.asarray(x)
    if array.dtype.hasobject or array.itemsize == 0:
        raise TypeError(f"expected an array of numbers, got dtype {array.dtype}")
    return array


def with_dim(x: ArrayLike | None) -> Array:
    """An array that has a dim 0."""
    return np.atleast_1d(as_array(x))


def axis(dim: int, ndim: int, name: str = "dim") -> int:
    """A dim counted from the front; ValueError if there is none such."""
    if not -ndim <= dim < ndim:
        raise ValueError(f"expected {name} from {-ndim} to {ndim - 1}, got {dim!r}")
    return dim % ndim


def like(example: Any) -> Array:
    """The array to receive into: the example if it can be written, else a new one of its kind."""
    if isinstance(example, np.ndarray) and example.flags.writeable:
        as_array(example)
        return example
    if hasattr(example, "shape") and hasattr(example, "dtype"):
        return np.empty(example.shape, example.dtype)
    array = as_array(example)
    return np.empty(array.shape, array.dtype)


def target(out: Array | None, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """A C-contiguous array for the result: `out` where it is one, else a new one.

    ValueError if `out` cannot take such a result.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else repr(out)
        raise ValueError(f"expected out of {dtype} {shape}, got {got}")
    if not out.flags.writeable:
        raise ValueError(f"expected out of {dtype} {shape} to be writable, got a read-only array")
    return out if out.flags.c_contiguous and out.flags.aligned else np.empty(shape, dtype)


def ordered(x: Array, result: Array) -> Array:
    """The elements of x in C order, flat: where they lie, or copied to where the result will."""
    if not x.flags.c_contiguous:
        result[...] = x
        x = result
    return x.reshape(-1)


def settled(result: Array, out: Array | None) -> Array:
    """The result, in `out` if there is one, else C-contiguous."""
    if out is None:
        return np.ascontiguousarray(result).reshape(result.shape)  # which makes 0-d arrays 1-d
    if result is not out:
        out[...] = result
    return out


def whole(function: Callable[..., Any], view: Callable[[Array], Array]) -> Callable[..., None]:
    """A function of two arrays as an operation on flat buffers, which `view` gives a shape."""

    def combine(left: Array, right: Array, *, out: Array) -> None:
        place = view(out)
        result = np.asarray(function(view(left), view(right)))
        if result.shape != place.shape or not np.can_cast(result.dtype, out.dtype, "same_kind"):
            raise TypeError(
                f"expected op to return {out.dtype} {place.shape}, "
                f"got {result.dtype} {result.shape}"
            )
        place[...] = result

    return combine
