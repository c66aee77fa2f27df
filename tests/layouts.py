"""Arrays that lie in memory in the ways in which a caller's may."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from rankwise.collectives import Communicator

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Empty = Callable[[Shape, DTypeLike], Array]


class Place(NamedTuple):
    """Where an array lies: a name of LAYOUTS or of ALIASES, and whether comm.empty gave memory."""

    layout: str = "c"
    is_shared: bool = False


ORDINARY, SHARED = Place(), Place(is_shared=True)


class Like(NamedTuple):
    """An array without its elements."""

    shape: Shape
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


SCALAR = Like((), np.dtype(float))


def given(
    comm: Communicator, x: Array | None, place: Place, into: Place | None, out: Like
) -> tuple[Any, Array | None]:
    """x and out as they are handed to a call. What out holds before is zeros."""
    if x is not None and x.dtype == out.dtype and into is not None and into.layout in OVERLAPPING:
        return overlapping(source(comm, into), x, out, into.layout == "before")
    handed: Any = None if x is None else filled(source(comm, place), place.layout, x)
    if into is None:
        return handed, None
    can_hold = isinstance(handed, np.ndarray) and handed.flags.writeable
    if into.layout == "x" and can_hold and Like(handed.shape, handed.dtype) == out:
        return handed, handed
    layout = into.layout if into.layout in LAYOUTS else "c"
    memory = LAYOUTS[layout](source(comm, into), out.shape, out.dtype)
    memory[...] = np.zeros((), out.dtype)
    memory.flags.writeable = into.layout != "frozen"
    return handed, memory


def source(comm: Communicator, place: Place) -> Empty:
    """Where memory comes from."""
    return comm.empty if place.is_shared else np.empty


def filled(empty: Empty, layout: str, x: Array) -> Any:
    """A copy of x; a list if the dtype comes back from one."""
    if layout == "list" and x.dtype.char in "?ldD" and x.dtype.isnative and x.size:
        return x.tolist()
    if x.dtype.hasobject:
        return x.copy()
    memory = LAYOUTS.get(layout, contiguous)(empty, x.shape, x.dtype)
    memory[...] = x
    memory.flags.writeable = layout != "frozen"
    return memory


def overlapping(empty: Empty, x: Array, out: Like, is_before: bool) -> tuple[Array, Array]:
    """x, and an out that begins one element before or after it."""
    memory = empty((max(x.size, out.size) + 1,), x.dtype)
    memory[...] = np.zeros((), x.dtype)
    begin = int(is_before)
    handed = memory[begin : begin + x.size].reshape(x.shape)
    handed[...] = x
    return handed, memory[1 - begin : 1 - begin + out.size].reshape(out.shape)


def contiguous(empty: Empty, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return empty(shape, dtype)


def inner(empty: Empty, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Within a larger array."""
    size = math.prod(shape)
    return empty((size + 3,), dtype)[2 : 2 + size].reshape(shape)


def fortran(empty: Empty, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return empty(shape[::-1], dtype).T


def spread(empty: Empty, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Every second element along every dim of a larger array."""
    every_second: Any = (Ellipsis, *[slice(None, None, 2)] * len(shape))
    memory: Array = empty(tuple(2 * n for n in shape), dtype)[every_second]
    return memory


def backward(empty: Empty, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """From the end of memory to its beginning."""
    memory = empty(shape, dtype)
    return np.flip(memory) if shape else memory


def unaligned(empty: Empty, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """At an odd address."""
    nbytes = math.prod(shape) * dtype.itemsize
    return empty((nbytes + 1,), np.uint8)[1:].view(dtype).reshape(shape)


LAYOUTS: dict[str, Callable[[Empty, Shape, np.dtype[Any]], Array]] = {
    "c": contiguous,
    "inner": inner,
    "fortran": fortran,
    "spread": spread,
    "backward": backward,
    "unaligned": unaligned,
}
READ_ONLY = ("frozen", "list")  # layouts of x alone
OVERLAPPING = ("before", "after")  # layouts of out: one element before or after x
ALIASES = ("x", *OVERLAPPING)
