"""Choosing what of a node is cut, given how its tensors are to lie.

The rules by which graphs are sharded say of a node how its dims are tied. So the placement of one
tensor says which axes are cut; these say how all other tensors of the node must lie; and an axis
that the rule needs whole, or that two tensors have cut in different ways, is a placement that the
operator cannot be computed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import PlacementError
from ..sharding.analysis import repeated
from ..sharding.axes import Axis, Conflict, Size, atoms, find, leaves, pieces, product, unify
from ..sharding.layout import Layout, is_opaque
from ..sharding.rules import find_rule
from ..sharding.rules.rule import Rule
from ..sharding.site import Site, Tensor
from .cuts import Cuts, Part, shape_of
from .node import natural, scattering
from .placement import Factor, Placement, with_one_block
from .resharding import route


class Wish(NamedTuple):
    """How a tensor of a node is to lie while the node is computed."""

    tensor: Tensor
    placement: Placement
    is_firm: bool = False
    """it was said of this node: where it cannot be so, that is an error"""


class Impossible(Exception):  # noqa: N818  (it is caught as an answer: another way is taken)
    """Say that a node cannot be computed so, though no rule is broken."""


def choose(site: Site, wishes: Sequence[Wish], devices: Sequence[int]) -> Cuts:
    """Cut what the wishes ask for, on `devices`, so that as little as possible is moved.

    Of wishes that exclude each other, firm ones come first. Raises PlacementError, with the rule,
    where a firm wish breaks one.
    """
    usable = [wish for wish in wishes if wish.tensor.has_shape and _is_on(wish, devices)]
    single = [(w, p) for w in usable if (p := with_one_block(w.placement, shape_of(w.tensor)))]
    for wish, placement in single:
        _refine(wish.tensor, placement)
    firm = [each for each in single if each[0].is_firm]
    others = [each for each in single if not each[0].is_firm]
    orders = [others[k:] + others[:k] for k in range(len(others))] or [[]]
    choices = list[Cuts]()
    for order in orders:
        taken = _taken(site, [*firm, *order], devices)
        if all(taken.parts != other.parts for other in choices):
            choices.append(taken)
    return min(choices, key=lambda cuts: _moved(cuts, wishes)) if len(choices) > 1 else choices[0]


def _taken(site: Site, asked: Sequence[tuple[Wish, Placement]], devices: Sequence[int]) -> Cuts:
    """Cut what is asked for, in that order, as far as it can be."""
    cuts = Cuts(site, tuple(sorted(devices)))
    firm = list[tuple[Tensor, set[Axis]]]()
    for wish, placement in asked:
        try:
            axes = set[Axis]()
            for axis, parts in _read(wish.tensor, placement):
                _add(cuts, axis, parts)
                axes.add(find(axis))
        except PlacementError as error:
            if wish.is_firm:
                raise PlacementError(f"{wish.tensor.name}: {error}") from None
        except (Impossible, Conflict):
            continue
        else:
            firm += [(wish.tensor, axes)] * wish.is_firm
        if wish.is_firm:
            _check_whole(cuts, firm)
    return cuts


def _check_whole(cuts: Cuts, firm: Sequence[tuple[Tensor, set[Axis]]]) -> None:
    """Raise PlacementError where an axis is cut in one tensor, and said to be whole in another."""
    for tensor, axes in firm:
        if whole := [axis for axis in tensor.atoms if axis in cuts.parts and axis not in axes]:
            raise PlacementError(
                f"{tensor.name}: an axis of size {whole[0]!r} is whole, but cut in another tensor "
                f"of {cuts.site.node.op_type}"
            )


def _moved(cuts: Cuts, wishes: Sequence[Wish]) -> int:
    """Return how many elements are moved until all tensors lie as they are asked to."""
    total = 0
    for wish in wishes:
        if not wish.tensor.has_shape:
            continue
        sizes = tuple(size.first for size in wish.tensor.shape)
        try:
            if wish.tensor in cuts.site.outputs:
                total += _moved_after(cuts, wish, sizes)
            else:
                total += route(sizes, wish.placement, cuts.placement(wish.tensor)).moved
        except PlacementError:  # a stand-in for a size that is not known does not divide
            continue
    return total


def _moved_after(cuts: Cuts, wish: Wish, sizes: tuple[int, ...]) -> int:
    """Return what is moved of an output. An AllReduce sends each element about twice."""
    here = natural(cuts, wish.tensor)
    if cuts.op is None:
        return route(sizes, here, wish.placement).moved
    held = sum(math.prod(map(len, box)) for box in here.held(sizes).values())
    if scattering(cuts, wish.tensor, wish.placement) is not None:
        return held
    return 2 * held + route(sizes, here, wish.placement).moved


def _is_on(wish: Wish, devices: Sequence[int]) -> bool:
    return set(devices) <= set(wish.placement.members)


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
    if any(axis in repeated(t) for t in (*site.inputs, *site.outputs) if t is not None):
        raise Impossible("two dims of a tensor are the same")
    (count,) = {part.total for part in own.values()}
    if min(axis.size) < count:
        raise Impossible("it has fewer elements than shards")
    rule = find_rule(site.node.domain, site.node.op_type)
    if not axis.size.is_static and rule is not None and rule.localize is not UNCHANGED:
        raise Impossible("sizes in the node depend on what is fed")
    if is_opaque(site, Layout(frozenset([*cuts.parts, axis]), count)) or axis in site.slid:
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
