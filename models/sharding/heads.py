"""Heads in groups: queries that share a head of keys and values.

The fewer heads of keys are repeated, from [b, groups, s, d] over [b, groups, each, s, d] to
[b, groups * each, s, d]. This ties the heads of the queries to groups, and ranks take whole
groups, or a part of each. Where the ranks are more than either, there are two other ways. If each
group can be that of as many ranks, these share its queries, and have the same keys and values.
Else they take queries one by one: keys and values are then computed whole, and cut once they are
repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ..errors import HintError, MeshError
from .analysis import Analysis, tie
from .axes import Axis, find, leaves, pieces
from .hints import whole_nodes
from .search import SLACK, Choice, Terms, choose
from .site import Site

MOST = 2 * SLACK
"""What a rank may hold above its even share, as a part of the whole, if a run is faster for it."""


def choose_by_head(
    analysis: Analysis, size: int, terms: Terms | None = None
) -> tuple[Analysis, Choice]:
    """Choose what to shard over `size` ranks, heads by group or one by one.

    Returns the axes that the choice is of: where heads are taken one by one, they are others.
    Raises MeshError, HintError.
    """
    terms = terms or Terms()
    whole = whole_nodes(analysis, terms.hints)
    if whole:
        analysis = tie(analysis.graph, analysis.measured, whole)
    variants = [analysis]
    if groups := small_groups(analysis, size):
        variants.append(tie(analysis.graph, analysis.measured, groups | whole))
    if nested := nested_groups(analysis, size):
        variants.append(replace(analysis, nested=nested))
    choices, errors = list[tuple[Analysis, Choice]](), list[HintError | MeshError]()
    for variant in variants:
        try:
            choices.append((variant, choose(variant, size, terms)))
        except (HintError, MeshError) as error:  # of which the other variant may know nothing
            errors.append(error)
    if not choices:
        raise errors[0]
    best = choices[0]
    for other in choices[1:]:
        best = other if _is_better(other[1], best[1], terms) else best
    return best


def _is_better(single: Choice, grouped: Choice, terms: Terms) -> bool:
    """Say whether to take heads otherwise than by group, though a rank may hold more then."""
    even = 1 / single.layout.size
    is_small = terms.memory is not None or single.heaviest <= max(even + MOST, grouped.heaviest)
    return bool(single.chosen) and is_small and single.seconds < grouped.seconds


def nested_groups(analysis: Analysis, size: int) -> dict[Axis, Axis]:
    """Return the queries of a group by their groups, where each group is several ranks'.

    Weights show them: of [groups * each * width] the first two, if there are fewer groups than
    ranks, as many for each, and queries enough.
    """
    found = dict[Axis, Axis]()
    for tensor in analysis.tensors.values():
        for axis in tensor.axes if tensor.is_weight else ():
            for piece in pieces(axis) if axis is not None else ():
                groups, each, *width = [*map(find, leaves(piece)), None, None][:3]
                if groups and each and any(width) and _nests(groups, each, size):
                    found.setdefault(each, groups)
    return found


def _nests(groups: Axis, each: Axis, size: int) -> bool:
    if not (groups.kind == each.kind == "atom" and groups.size.is_static and each.size.is_static):
        return False
    count = groups.size.first
    return count < size and size % count == 0 and each.size.first >= size // count


def small_groups(analysis: Analysis, size: int) -> dict[str, str]:
    """Return the nodes that make heads of groups too small for `size` ranks.

    They are named by their output, each with what it means for them.
    """
    found = dict[str, str]()
    for site in analysis.sites:
        for axis in _repeated(site):
            for reader in analysis.readers.get(site.output().name, ()):
                row = _joined(reader, axis)
                sizes = [leaf.size.first for leaf in row]
                if row and max(sizes) < size <= math.prod(sizes):
                    text = " groups of ".join(map(str, sizes))
                    found[reader.output().name] = f"its {text} are too few for {size} ranks"
    return found


def _repeated(site: Site) -> Iterator[Axis]:
    """Yield the axes of fixed size that an Expand makes of dims of size 1."""
    if site.node.op_type == "Expand" and site.obstacle is None:
        x, y = site.tensor(0).axes, site.output().axes
        for given, made in zip((*[None] * (len(y) - len(x)), *x), y, strict=True):
            if given is None and made is not None and made.size.is_static:
                yield find(made)


def _joined(site: Site, axis: Axis) -> list[Axis]:
    """Return the factors of the dim that a Reshape joins an axis into."""
    if site.node.op_type != "Reshape" or site.obstacle is not None:
        return []
    inside = {find(leaf) for leaf in leaves(axis)}
    rows = [list(map(find, leaves(made))) for made in site.output().axes if made is not None]
    for row in rows:
        if inside < set(row) and all(leaf.size.is_static for leaf in row):
            return row
    return []
