"""Rules of mixtures of experts in one node: every expert's inner width is cut.

e experts, w their inner width. The first matrices are [e, w, hidden], the second [e, hidden, w],
so that the ranks' outputs are parts of a sum. Each rank chooses experts for itself, by the same
numbers. To cut by expert would save no more bytes, and leave each rank as many whole experts for a
token as are chosen, some of weight 0, since the operator chooses among those that it has. Where
gate and value lie in one matrix, its rows are pairs (w*2) or halves [w+w].
"""

from __future__ import annotations

from typing import NamedTuple

from ..axes import Axis, Conflict, concatenation, product
from ..rewrite import Call, Local
from ..site import Site
from .contrib_blocks import Blocks, blocked
from .forms import WHOLE, axis_of, lay, merged, optional, tie_or_whole, width_of, without_bias

ABSENT = 99
"""A position that no node has an input at."""


class Places(NamedTuple):
    """Inputs of one of an expert's matrices."""

    weight: int
    bias: int
    scale: int = ABSENT
    zeros: int = ABSENT


PLAIN = Places(2, 3), Places(4, 5), Places(6, 7)
QUANTISED = Places(2, 4, 3, 11), Places(5, 7, 6, 12), Places(8, 10, 9, 13)
"""Of the two that take the hidden width in, the first and the third, and the one between."""


def experts(site: Site) -> None:
    """Cut the inner width; of experts that are quantised, between blocks or bytes."""
    if site.attribute("quant_type", "int") != "int":
        raise Conflict("its experts are no integers")
    is_quantised = site.node.op_type == "QMoE"
    first, second, third = QUANTISED if is_quantised else PLAIN
    w = _inner_width(site, second, is_quantised)
    _rows_of(site)
    _enter(site, first, _fused(site, w.elements))
    _enter(site, third, w.elements)
    lay(site, site.tensor(second.weight), (WHOLE, WHOLE, w.packed))
    lay(site, optional(site, second.bias), (WHOLE, WHOLE))
    lay(site, optional(site, second.scale), (WHOLE, WHOLE), (WHOLE, WHOLE, w.blocks))
    lay(site, optional(site, second.zeros), (WHOLE, WHOLE), (WHOLE, WHOLE, w.zeros))
    if w.zeros is None:
        site.whole(w.blocks)
    site.contract(w.blocks)


def _inner_width(site: Site, places: Places, is_quantised: bool) -> Blocks:
    stored = width_of(site.tensor(places.weight))
    if not is_quantised:
        w = axis_of(stored)
        return Blocks(w, w, w, w)
    default = site.attribute("expert_weight_bits", 4)
    bits = site.attribute("fc2_expert_weight_bits", default)
    block = site.attribute("block_size", 0)
    if block <= 0:  # a scale for a whole row: the elements of a byte stay together
        return blocked(site, stored, 8 // bits, bits, has_zeros=False)
    return blocked(site, stored * 8 // bits // block, block, bits, site.has(places.zeros))


def _rows_of(site: Site) -> None:
    """Tie the rows of what comes, of the numbers that choose experts, and of what is made."""
    x, y = site.tensor(0), site.output()
    site.tie_all(x.axes, y.axes)
    site.whole(x.axes[-1])
    for position in (1, 14):
        chosen = optional(site, position)
        if chosen is not None:
            tie_or_whole(site, chosen.axes[0], product(x.axes[:-1]))
            site.whole(chosen.axes[1])


def _fused(site: Site, w: Axis) -> Axis:
    """Return the rows of the first matrix."""
    fusion = site.attribute("swiglu_fusion", 0)
    if fusion == 0:
        return w
    if fusion == 2:
        return concatenation((w, w))
    return merged(w, axis_of(2))


def _enter(site: Site, places: Places, made: Axis) -> None:
    """Tie the rows of a matrix that takes the hidden width in, and what belongs to each row."""
    lay(site, optional(site, places.weight), (WHOLE, made, WHOLE))
    lay(site, optional(site, places.bias), (WHOLE, made))
    lay(site, optional(site, places.scale), (WHOLE, made), (WHOLE, made, WHOLE))
    zeros = optional(site, places.zeros)
    if zeros is not None and zeros.rank == 2 and zeros.shape[1] != made.size:
        raise Conflict("zero points of several columns share a byte")
    lay(site, zeros, (WHOLE, made), (WHOLE, made, WHOLE))


def local_experts(local: Local) -> Call:
    """Give the second matrices' bias to one rank's part only."""
    return without_bias(local, 7 if local.site.node.op_type == "QMoE" else 5)
