"""Placements: which block of a tensor each device holds.

A placement cuts some dims of a tensor, and says of each block which devices hold it. The blocks
are counted in nested loops over the cuts in their order, the first one slowest. A dim that a
reshape has fused out of several has a factor for each of them, and any of the factors may be cut:
[2, 4] that is cut in its second dim and then read as [8] is cut as 2 (whole) x 4 (in two), so that
device 0 holds the elements 0, 1, 4 and 5.

A block that several devices hold is replicated; a device that holds several blocks has them
joined, each dim in ascending order. Sizes need not divide: a factor is cut as numpy.array_split
cuts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import PlacementError
from ..weights import bounds

Indices = npt.NDArray[np.int64]
Box = tuple[Indices, ...]
"""The part of a tensor that has these indices of each dim, in ascending order."""

Shape = tuple[int | None, ...]
"""None for a size that is known only when the model runs."""


class Factor(NamedTuple):
    """A factor of a dim, and into how many parts it is cut."""

    size: int | str | None
    """elements; None or a symbol for what the other factors leave of the dim"""
    shards: int


class Cut(NamedTuple):
    """A dim and its factors, the slowest first."""

    dim: int
    factors: tuple[Factor, ...]

    @property
    def shards(self) -> int:
        return math.prod(factor.shards for factor in self.factors)

    def sizes(self, extent: int) -> list[int]:
        """Return the sizes of all factors of a dim of `extent`. Raises PlacementError."""
        known = [factor.size for factor in self.factors if isinstance(factor.size, int)]
        rest, excess = divmod(extent, math.prod(known) or 1)
        unknown = len(self.factors) - len(known)
        if unknown > 1 or excess or (unknown == 0 and rest != 1):
            raise PlacementError(
                f"expected factors whose product is the size {extent} of dim {self.dim}, "
                f"got {[factor.size for factor in self.factors]}"
            )
        return [f.size if isinstance(f.size, int) else rest for f in self.factors]


def cut(dim: int, shards: int) -> Cut:
    """Return the cut of a whole dim."""
    return Cut(dim, (Factor(None, shards),))


@dataclass(frozen=True)
class Placement:
    """Which devices hold which block.

    >>> halves = Placement((cut(1, 2),), ((0,), (1,)))
    >>> {device: box[1].tolist() for device, box in halves.held((2, 5)).items()}
    {0: [0, 1, 2], 1: [3, 4]}
    """

    cuts: tuple[Cut, ...]
    devices: tuple[tuple[int, ...], ...]
    """by block: the devices that hold it"""

    def __post_init__(self) -> None:
        """Raise PlacementError for cuts that are none, and blocks that nobody holds."""
        if repeated := _repeated(cut.dim for cut in self.cuts):
            raise PlacementError(f"expected each dim once among the cuts, got {repeated[0]} twice")
        for each in self.cuts:
            for factor in each.factors:
                _check_factor(each.dim, factor)
        blocks = math.prod(each.shards for each in self.cuts)
        if len(self.devices) != blocks:
            raise PlacementError(
                f"expected a device for each of {blocks} blocks, got {len(self.devices)}"
            )
        for group in self.devices:
            if not group or _repeated(group):
                raise PlacementError(f"expected groups of different devices, got {list(group)}")

    @classmethod
    def everywhere(cls, devices: Sequence[int]) -> Placement:
        """Return the placement of a tensor that all of these devices hold whole."""
        return cls((), (tuple(sorted(devices)),))

    @cached_property
    def members(self) -> tuple[int, ...]:
        """The devices that hold anything, in ascending order."""
        return tuple(sorted({device for group in self.devices for device in group}))

    @property
    def dims(self) -> dict[int, Cut]:
        """The cuts by dim, of those that cut anything."""
        return {each.dim: each for each in self.cuts if each.shards > 1}

    def blocks(self, device: int) -> list[tuple[tuple[int, ...], ...]]:
        """Return the blocks of a device: of each cut, the part of each factor."""
        loops = [itertools.product(*(range(f.shards) for f in c.factors)) for c in self.cuts]
        every = itertools.product(*map(list, loops))
        return [at for at, group in zip(every, self.devices, strict=True) if device in group]

    def extent(self, dim: int) -> int | None:
        """Return how many parts a dim of unknown size is counted in; None where it is not cut."""
        found = self.dims.get(dim)
        if found is None:
            return None
        return math.prod(f.size if isinstance(f.size, int) else f.shards for f in found.factors)

    def held(self, sizes: Sequence[int]) -> dict[int, Box]:
        """Return the part of a tensor of these sizes that each device holds.

        Raises PlacementError for dims that the tensor lacks, factors that do not make a dim, and
        blocks of a device that are no rectangle together.
        """
        for each in self.cuts:
            if not 0 <= each.dim < len(sizes):
                raise PlacementError(f"expected dims below {len(sizes)}, got {each.dim}")
        return {device: self._box(sizes, device) for device in self.members}

    def _box(self, sizes: Sequence[int], device: int) -> Box:
        blocks = self.blocks(device)
        box = [np.arange(size) for size in sizes]
        parts = [sorted({block[k] for block in blocks}) for k in range(len(self.cuts))]
        if math.prod(map(len, parts)) != len(blocks):
            raise PlacementError(f"the blocks {blocks} of device {device} are no rectangle")
        for each, chosen in zip(self.cuts, parts, strict=True):
            whole = each.sizes(sizes[each.dim])
            rows = [_indices(each, whole, part) for part in chosen]
            box[each.dim] = np.sort(np.concatenate(rows), kind="stable")
        return tuple(box)


def _check_factor(dim: int, factor: Factor) -> None:
    if factor.shards < 1:
        raise PlacementError(f"expected dim {dim} in at least 1 shard, got {factor.shards}")
    if isinstance(factor.size, int) and factor.size < 1:
        raise PlacementError(f"expected factors of dim {dim} of at least 1, got {factor.size}")


def _repeated(values: Iterator[int] | Sequence[int]) -> list[int]:
    listed = list(values)
    return [value for k, value in enumerate(listed) if value in listed[:k]]


def _indices(each: Cut, sizes: Sequence[int], part: Sequence[int]) -> Indices:
    """Return the indices of a dim that have these parts of its factors."""
    kept = np.zeros(1, np.int64)
    for factor, size, place in zip(each.factors, sizes, part, strict=True):
        inner = np.arange(*bounds(size, place, factor.shards))
        kept = (kept[:, None] * size + inner).reshape(-1)
    return kept


def sizes_of(shape: Shape, *placements: Placement) -> tuple[int, ...]:
    """Return sizes to count by: a size that is not known is counted in the parts of its cuts.

    Raises PlacementError where the placements cut such a dim into different parts, or inside of a
    factor that is not known.
    """
    sizes = list[int]()
    for dim, size in enumerate(shape):
        if size is None and any(inner(p, dim) for p in placements):
            raise PlacementError(f"expected the size of dim {dim}, which is cut within a factor")
        counts = {count for p in placements if (count := p.extent(dim)) is not None}
        if size is None and len(counts) > 1:
            raise PlacementError(
                f"expected the size of dim {dim}, which is cut in different ways: {sorted(counts)}"
            )
        sizes.append(size if size is not None else min(counts, default=1))
    return tuple(sizes)


def inner(placement: Placement, dim: int) -> int | None:
    """Return the size of the factors within one of unknown size, None unless they are cut."""
    each = placement.dims.get(dim)
    known = [isinstance(factor.size, int) for factor in each.factors] if each else [True]
    if each is None or all(known):
        return None
    within = each.factors[known.index(False) + 1 :]
    if all(factor.shards == 1 for factor in within):
        return None
    return math.prod(factor.size for factor in within if isinstance(factor.size, int))


def with_dim_apart(placement: Placement, dim: int, size: int) -> Placement:
    """Return a placement on a tensor whose dim is two: what is left, and its factors of `size`.

    Raises PlacementError where a cut goes across the two.
    """
    cuts = list[Cut]()
    for each in placement.cuts:
        if each.dim != dim or each.shards == 1:
            cuts.append(each._replace(dim=each.dim + (each.dim > dim)))
            continue
        k, have = len(each.factors), 1
        while have < size and k > 1:
            k -= 1
            factor = each.factors[k].size
            have *= factor if isinstance(factor, int) else size + 1
        if have != size:
            raise PlacementError(f"expected the size of dim {dim}, which is cut in different ways")
        cuts += [Cut(dim, each.factors[:k]), Cut(dim + 1, each.factors[k:])]
    return Placement(tuple(cuts), placement.devices)


def with_one_block(placement: Placement, shape: Shape) -> Placement | None:
    """Return a placement of the same parts of which each device holds one block, if there is one.

    On a mesh [0, 1, 0, 1] device 0 holds the blocks 0 and 2 of a dim: that dim is then two
    factors, of which the second is cut.
    """
    if all(len(placement.blocks(device)) == 1 for device in placement.members):
        return placement
    held = placement.held(sizes_of(shape, placement))
    cuts, parts = list[Cut](), list[Mapping[int, int]]()
    for dim in placement.dims:
        rows = {device: tuple(box[dim].tolist()) for device, box in held.items()}
        different = sorted(set(rows.values()))
        if len(different) > 1:
            runs = 1 + int(np.count_nonzero(np.diff(different[0]) > 1))
            outer = (Factor(runs, 1),) if runs > 1 else ()
            cuts.append(Cut(dim, (*outer, Factor(None, len(different)))))
            parts.append({device: different.index(row) for device, row in rows.items()})
    return _same_parts(placement, shape, held, cuts, parts)


def _same_parts(
    placement: Placement,
    shape: Shape,
    held: Mapping[int, Box],
    cuts: Sequence[Cut],
    parts: Sequence[Mapping[int, int]],
) -> Placement | None:
    places: dict[tuple[int, ...], list[int]] = {}
    for device in placement.members:
        places.setdefault(tuple(row[device] for row in parts), []).append(device)
    loops = itertools.product(*(range(each.shards) for each in cuts))
    try:
        made = Placement(tuple(cuts), tuple(tuple(places.get(at, ())) for at in loops))
        same = made.held(sizes_of(shape, placement))
    except PlacementError:
        return None
    is_same = all(
        np.array_equal(a, b)
        for device in held
        for a, b in zip(held[device], same[device], strict=True)
    )
    return made if is_same else None
