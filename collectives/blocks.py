"""How an array lies in a buffer of blocks: block b is buffer[offsets[b]:offsets[b + 1]].

Along dim 0 the blocks of a C-contiguous array follow one another in memory. For any other dim the
array is turned so that dim comes first (`front`), and turned back at the end (`back`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Offsets = tuple[int, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Blocks that follow one another, in memory of their own."""

    flat: Array
    start: int = 0
    """the first of its elements, of all in the buffer of blocks"""

    @property
    def stop(self) -> int:
        return self.start + self.flat.size

    @cached_property
    def origin(self) -> int:
        """The address that the first of all elements would have."""
        address: int = self.flat.__array_interface__["data"][0]
        return address - self.start * self.flat.itemsize

    def beside(self, other: Part) -> Part:
        """This part, or a copy where writing to the other would change it."""
        if self.origin == other.origin or not np.may_share_memory(self.flat, other.flat):
            return self
        return Part(self.flat.copy(), self.start)

    def copy_into(self, other: Part) -> None:
        """Copy the elements that both have."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        if start < stop and self.origin != other.origin:
            other.flat[start - other.start : stop - other.start] = self.flat[
                start - self.start : stop - self.start
            ]

    def spread(self, out: Part, total: int, *, is_kept: bool) -> Array:
        """A buffer of all blocks with these in it: the memory of `out` if that is one.

        It may be this part's own memory, unless that `is_kept`.
        """
        if out.flat.size == total:
            work = out.flat
        elif self.flat.size == total and not is_kept:
            return self.flat
        else:
            work = np.empty(total, self.flat.dtype)
        self.copy_into(Part(work))
        return work


@functools.lru_cache(maxsize=1024)
def split(length: int, parts: int) -> tuple[int, ...]:
    """The lengths into which numpy.array_split cuts: the first ones are longer by one."""
    whole, rest = divmod(length, parts)
    return (whole + 1,) * rest + (whole,) * (parts - rest)


def offsets(lengths: Sequence[int], row: int = 1) -> Offsets:
    """Where blocks of so many rows begin, and the last one ends, in elements."""
    return tuple(itertools.accumulate((length * row for length in lengths), initial=0))


@functools.lru_cache(maxsize=1024)
def even(count: int, parts: int) -> Offsets:
    """The offsets of an even split of so many elements."""
    return offsets(split(count, parts))


@functools.lru_cache(maxsize=1024)
def segmented(where: Offsets, segments: int) -> Offsets:
    """The offsets of the segments of all blocks: each block is split evenly into so many."""
    if segments == 1:
        return where
    blocks = itertools.pairwise(where)
    return offsets([part for a, b in blocks for part in split(b - a, segments)])


def resized(shape: Shape, dim: int, length: int) -> Shape:
    """The shape with another length along dim."""
    return (*shape[:dim], length, *shape[dim + 1 :])


def row(shape: Shape, dim: int) -> int:
    """Elements to one step along dim."""
    return math.prod(shape[:dim]) * math.prod(shape[dim + 1 :])


def front(x: Array, dim: int) -> Array:
    """The array in C order with dim first, flat. A copy only where memory is not so already."""
    turned = x if dim == 0 else np.moveaxis(x, dim, 0)  # which takes a while
    return np.ascontiguousarray(turned).reshape(-1)


def back(flat: Array, shape: Shape, dim: int) -> Array:
    """A view of a flat array that was turned by `front`, in its original shape."""
    turned = (shape[dim], *shape[:dim], *shape[dim + 1 :])
    return np.moveaxis(flat.reshape(turned), 0, dim)


def turned(x: Array, dim: int) -> Array:
    """Flat memory for what is to be x with dim first: that of x, or new memory where it is not so.

    x is C-contiguous.
    """
    return x.reshape(-1) if math.prod(x.shape[:dim]) == 1 else np.empty(x.size, x.dtype)


def turn_back(flat: Array, x: Array, dim: int) -> None:
    """Fill x from what `turned` has given."""
    if not np.may_share_memory(flat, x):
        x[...] = back(flat, x.shape, dim)


@functools.lru_cache(maxsize=1024)
def exchanged(shapes: tuple[Shape, ...], dim: int) -> tuple[Offsets, ...]:
    """The offsets of every rank's blocks in an alltoall: those for others, then those of others.

    Ranks have arrays of these shapes, and cut them along dim.
    """
    size = len(shapes)
    blocks = [[length * row(shape, dim) for length in split(shape[dim], size)] for shape in shapes]
    return tuple(offsets([*own, *(other[q] for other in blocks)]) for q, own in enumerate(blocks))
