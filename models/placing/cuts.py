"""Where one node is computed: which axes of it are cut, and which part each device has.

The rules by which graphs are sharded say of a node how its dims are tied. So the placement of one
tensor says which axes are cut; these say how all other tensors of the node must lie; and an axis
that the rule needs whole, or that two tensors have cut in different ways, is a placement that the
operator cannot be computed on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import PlacementError
from ..sharding.axes import Axis, Conflict, Size, atoms, find, leaves, pieces, product, unify
from ..sharding.layout import Layout, is_opaque, partial_op
from ..sharding.rules import find_rule
from ..sharding.rules.rule import Rule
from ..sharding.site import Site, Tensor
from .placement import Cut, Factor, Placement, Shape, with_one_block


class Wish(NamedTuple):
    """How a tensor of a node is to lie while the node is computed."""

    tensor: Tensor
    placement: Placement
    is_firm: bool = False
    """it was said of this node: where it cannot be so, that is an error"""


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
        return NodeLayout(frozenset(own), count, own)

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


class Impossible(Exception):  # noqa: N818  (it is caught as an answer: another way is taken)
    """Say that a node cannot be computed so, though no rule is broken."""


def choose(
    site: Site, wishes: Sequence[Wish], devices: Sequence[int], *, is_strict: bool = True
) -> Cuts:
    """Cut what the wishes ask for, the first ones first, on `devices`.

    What cannot be is left whole. Raises PlacementError, with the rule, where a firm wish breaks
    one and `is_strict`.
    """
    usable = [wish for wish in wishes if wish.tensor.has_shape and _is_on(wish, devices)]
    single = [(w, p) for w in usable if (p := with_one_block(w.placement, shape_of(w.tensor)))]
    for wish, placement in single:
        _refine(wish.tensor, placement)
    cuts = Cuts(site, tuple(sorted(devices)))
    for wish, placement in single:
        try:
            for axis, parts in _read(wish.tensor, placement):
                _add(cuts, axis, parts)
        except PlacementError as error:
            if wish.is_firm and is_strict:
                raise PlacementError(f"{wish.tensor.name}: {error}") from None
        except (Impossible, Conflict):
            continue
    return cuts


def _is_on(wish: Wish, devices: Sequence[int]) -> bool:
    return set(devices) <= set(wish.placement.members)


def shape_of(tensor: Tensor) -> Shape:
    """Return the sizes of a tensor, None for those that are known only when the model runs."""
    return tuple(size.first if size.is_static else None for size in tensor.shape)


def _refine(tensor: Tensor, placement: Placement) -> None:
    """Let the axes of a tensor have the factors of a placement."""
    for dim, each in placement.dims.items():
        axis = tensor.axes[dim]
        if axis is None or len(each.factors) == 1:
            continue
        known = math.prod(f.size for f in each.factors if isinstance(f.size, int))
        rest = tensor.shape[dim].over(Size(known, known))
        if rest is None:
            raise PlacementError(f"{tensor.name}: {known} does not divide dim {dim}")
        sizes = [Size(f.size, f.size) if isinstance(f.size, int) else rest for f in each.factors]
        try:
            unify(axis, product(Axis(size) for size in sizes) or axis)
        except Conflict:
            continue


def _read(tensor: Tensor, placement: Placement) -> Iterator[tuple[Axis, dict[int, Part]]]:
    """Yield the axes that a placement cuts, and what each device has of them."""
    places = {device: placement.blocks(device)[0] for device in placement.members}
    for k, each in enumerate(placement.cuts):
        axis = tensor.axes[each.dim]
        if each.shards == 1:
            continue
        if axis is None:
            raise PlacementError(
                f"dim {each.dim} has one element, which every device of the node must have, but "
                f"it is cut in {each.shards}"
            )
        row = leaves(axis)
        for f, factor in enumerate(each.factors):
            taken = _take(row, factor, is_last=f == len(each.factors) - 1)
            inner = factor.shards
            for leaf, count in _spread(taken, factor.shards):
                inner //= count
                yield (
                    leaf,
                    {
                        device: Part(place[k][f] // inner % count, count)
                        for device, place in places.items()
                    },
                )


def _take(row: list[Axis], factor: Factor, *, is_last: bool) -> list[Axis]:
    """Take the leaves that a factor is made of off a row."""
    if is_last or not isinstance(factor.size, int):
        taken, row[:] = list(row), []
        return taken
    size, taken = Size(factor.size, factor.size), list[Axis]()
    have = Size(1, 1)
    while have != size and row:
        taken.append(row.pop(0))
        have = have.times(taken[-1].size)
    if have != size:
        raise Impossible("its factors are others than the operator's")
    return taken


def _spread(row: Sequence[Axis], shards: int) -> Iterator[tuple[Axis, int]]:
    """Yield how many parts of each leaf make so many parts of their product."""
    for k, leaf in enumerate(row):
        size, is_alone = leaf.size.first, len(row) == 1
        if shards == 1:
            return
        if is_alone or (leaf.size.is_static and size % shards == 0):
            yield leaf, shards
            return
        if not leaf.size.is_static or shards % size or k == len(row) - 1:
            break
        yield leaf, size
        shards //= size
    if shards > 1:
        raise Impossible("its parts are no parts of the operator's factors")


def _add(cuts: Cuts, axis: Axis, parts: dict[int, Part]) -> None:
    """Cut one more axis. Raises PlacementError for a rule that it breaks, or Impossible."""
    site, axis = cuts.site, find(axis)
    own = {device: parts[device] for device in cuts.devices}
    if axis in cuts.parts:
        if cuts.parts[axis] != own:
            raise PlacementError(
                f"an axis of size {axis!r} is cut in another way than in another tensor of "
                f"{site.node.op_type}"
            )
        return
    if site.obstacle is not None:
        raise PlacementError(f"{site.node.op_type} needs its tensors whole: {site.obstacle}")
    if axis.kind != "atom" or _is_in_sum(site, axis):
        raise Impossible("a concatenation is cut")
    (count,) = {part.total for part in own.values()}
    if min(axis.size) < count:
        raise Impossible("it has fewer elements than shards")
    rule = find_rule(site.node.domain, site.node.op_type)
    if not axis.size.is_static and rule is not None and rule.localize is not UNCHANGED:
        raise Impossible("sizes in the node depend on what is fed")
    if is_opaque(site, Layout(frozenset([*cuts.parts, axis]), count)):
        raise PlacementError(f"{site.node.op_type} needs an axis of size {axis!r} whole")
    tried = Cuts(site, cuts.devices, {**cuts.parts, axis: own})
    if not _is_covered(tried):
        raise PlacementError(
            f"the placements do not compose: no device holds all that some part of "
            f"{site.node.op_type} needs"
        )
    cuts.parts[axis] = own


UNCHANGED = Rule(lambda site: None).localize
"""What rules do that leave a node as it is on every rank."""


def _is_in_sum(site: Site, axis: Axis) -> bool:
    """Say whether an axis is a part of a concatenation in any tensor of a node."""
    return any(
        axis in atoms(leaf)
        for tensor in (*site.inputs, *site.outputs)
        if tensor is not None
        for dim in tensor.axes
        if dim is not None
        for leaf in leaves(dim)
        if leaf.kind == "sum" and len(pieces(leaf)) > 1
    )


def _is_covered(cuts: Cuts) -> bool:
    rows = {tuple(part[d].number for part in cuts.parts.values()) for d in cuts.devices}
    counts = (next(iter(part.values())).total for part in cuts.parts.values())
    return len(rows) == math.prod(counts)
