"""How an array lies in a buffer of blocks: block b is buffer[offsets[b]:offsets[b + 1]].

Along dim 0 the blocks of a C-contiguous array follow one another in memory. For any other dim the
array is turned so that dim comes first (`front`), and turned back at the end (`back`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Offsets = tuple[int, ...]
Shape = tuple[int, ...]


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
    return np.ascontiguousarray(np.moveaxis(x, dim, 0)).reshape(-1)


def back(flat: Array, shape: Shape, dim: int) -> Array:
    """A view of a flat array that was turned by `front`, in its original shape."""
    turned = (shape[dim], *shape[:dim], *shape[dim + 1 :])
    return np.moveaxis(flat.reshape(turned), 0, dim)
