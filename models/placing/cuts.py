"""Where one node is computed: which axes of it are cut, and which part each device has."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..sharding.axes import Axis, atoms, leaves
from ..sharding.layout import Layout, partial_op
from ..sharding.site import Site, Tensor
from .placement import Cut, Factor, Placement, Shape


class Part(NamedTuple):
    """One part of an axis."""

    number: int
    total: int


@dataclass(frozen=True)
class NodeLayout(Layout):
    """What one device has of the axes of a node."""

    parts: Mapping[Axis, Part] = field(default_factory=dict)

    def part(self, atom: Axis, rank: int) -> tuple[int, int]:
        return self.parts[atom]


@dataclass
class Cuts:
    """The axes of a node that are cut, and what each device has of them."""

    site: Site
    devices: tuple[int, ...]
    """those that compute the node, in ascending order"""
    parts: dict[Axis, dict[int, Part]] = field(default_factory=dict)
    """by axis and device"""

    def layout(self, device: int) -> NodeLayout:
        """Return what a device has; ranks are counted within what is summed over."""
        own = {axis: part[device] for axis, part in self.parts.items()}
        count = math.prod(own[axis].total for axis in self.summed)
        return NodeLayout(frozenset(own), count, parts=own)

    def rank(self, device: int) -> int:
        """Return the number of a device among those whose parts are combined."""
        number = 0
        for axis in self.summed:
            place, total = self.parts[axis][device]
            number = number * total + place
        return number

    @property
    def op(self) -> str | None:
        """What combines the parts of the outputs; None where they are complete."""
        return partial_op(self.site, self.layout(self.devices[0])) if self.parts else None

    @property
    def summed(self) -> list[Axis]:
        """The axes that are cut and summed over."""
        found = {atom for entry in self.site.contracted for atom in atoms(entry.axis)}
        return [axis for axis in self.parts if axis in found]

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The devices whose parts are combined, and that then have the same."""
        kept = [axis for axis in self.parts if axis not in self.summed]
        rows: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for device in self.devices:
            at = tuple(self.parts[axis][device].number for axis in kept)
            rows.setdefault(at, {}).setdefault(self.rank(device), []).append(device)
        # Replicas of a part may be unequal in number: as many groups as have all parts.
        return [
            group
            for row in rows.values()
            for group in zip(*(row[number] for number in sorted(row)), strict=False)
        ]

    def placement(self, tensor: Tensor, devices: Sequence[int] = ()) -> Placement:
        """Return how a tensor of the node lies, on all devices or these."""
        cuts, axes = list[Cut](), list[Axis]()
        for dim, axis in enumerate(tensor.axes):
            row = [] if axis is None else leaves(axis)
            if not any(leaf in self.parts for leaf in row):
                continue
            factors = [
                Factor(leaf.size.first if leaf.size.is_static else None, self._count(leaf))
                for leaf in row
            ]
            if len(factors) == 1:
                factors = [Factor(None, factors[0].shards)]
            cuts.append(Cut(dim, tuple(factors)))
            axes += [leaf for leaf in row if leaf in self.parts]
        places: dict[tuple[int, ...], list[int]] = {}
        for device in devices or self.devices:
            at = tuple(self.parts[axis][device].number for axis in axes)
            places.setdefault(at, []).append(device)
        loops = itertools.product(*(range(self._count(axis)) for axis in axes))
        return Placement(tuple(cuts), tuple(tuple(places.get(at, ())) for at in loops))

    def _count(self, leaf: Axis) -> int:
        found = self.parts.get(leaf)
        return 1 if found is None else next(iter(found.values())).total


def shape_of(tensor: Tensor) -> Shape:
    """Return the sizes of a tensor, None for those that are known only when the model runs."""
    return tuple(size.first if size.is_static else None for size in tensor.shape)
