"""Faults planted in the sharding, and that the comparisons of the suite find each of them.

A fault is one function or one rule, replaced by a wrong one that makes graphs which still run. The
comparison is a test of the suite itself, on one of its cases; it passes before the fault is
planted, and finds wrong numbers after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import halos
import numpy as np
import pytest
import ranks
import test_contrib
import test_halos
import test_recurrent
import test_rules
import test_sequence
import test_sharding
from case import build
from comparison import assert_same

from rankwise.models.graph import load
from rankwise.models.sharding import halo, holding, partition, relayout
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.axes import Axis, atoms, leaves, pieces, product
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.layout import Layout, partial_op
from rankwise.models.sharding.relayout import Emitter
from rankwise.models.sharding.rewrite import Call, Local
from rankwise.models.sharding.rows import cut_rows
from rankwise.models.sharding.rules import (
    RULES,
    arithmetic,
    attention,
    cells,
    contrib,
    contrib_blocks,
    convolution,
    indexing,
    stepwise,
    structure,
)
from rankwise.models.sharding.rules.einsum import einsum
from rankwise.models.sharding.rules.rule import Rule
from rankwise.models.sharding.site import Site
from rankwise.models.sharding.window import Spread
from rankwise.models.weights import bounds

Comparison = Callable[[str, int, Path], None]

EVERY_AXIS = test_sharding.test_every_axis_that_may_be_cut_gives_the_same_outputs
CHOSEN = test_sharding.test_what_is_chosen_gives_the_same_outputs
OPERATOR = test_rules.test_parts_give_what_the_whole_gives


def compare_summed_pools(case: str, size: int, folder: Path) -> None:
    """Cut a graph along every dim that may be: a pooling that makes places anew, and their sum."""
    model = build(
        f"""(float[2,4,6,5] x) => (float[2,4] y) {{
          p = {case} <kernel_shape=[3,3], pads=[1,1,1,1]> (x)
          y = ReduceSum <keepdims=0> (p, d) }}""",
        d=[2, 3],
    )
    analysis, feeds = analyse(load(model)), halos.fed(model)
    for k, (atom, _, _) in enumerate(shardable(analysis, size)):
        (folder / str(k)).mkdir()
        for outputs in ranks.run(ranks.cut_along(analysis, atom, size), feeds, folder / str(k)):
            assert_same(outputs, ranks.whole(model, feeds))


RECURRENT = test_recurrent.test_hidden_units_in_parts_give_what_the_layer_gives
ON_ROWS = test_sequence.test_any_axis_may_be_that_of_the_rows
HALOS = test_halos.test_parts_of_an_image_give_what_the_whole_gives
CONTRIB = test_contrib.test_every_axis_that_may_be_cut_gives_the_same_outputs


class Fault(NamedTuple):
    """What is replaced, by what, and the test and its case that find it."""

    where: Any
    """a module, a class, or a table"""
    name: str
    wrong: Any
    compare: Comparison
    case: str


def first_rows(emit: Emitter, name: str, dim: int, rank: int, size: int) -> str:
    return cut_rows(emit, name, dim, 0, size)


def with_every_bias(local: Local, *_: int) -> Call:
    return local.unchanged()


def mean_of_means(local: Local) -> Call:
    """Weigh the means of the parts alike, however long they are."""
    call = local.unchanged()
    mean = local.node(call.op_type, call.inputs, **call.attributes)
    share = 1 / local.layout.size if local.is_partial else 1
    return Call("Mul", [mean, local.constant(np.array(share, local.dtype))], {})


def one_row_late(total: int, rank: int, size: int) -> tuple[int, int]:
    """Begin a part one row late, but for the first."""
    low, high = bounds(total, rank, size)
    return low + (rank > 0), high


def with_others_first(layout: Layout, axis: Axis, rank: int) -> Any:
    """Take the first part of a sum, which are the queries, from the next rank."""
    start, kept = 0, []
    for number, piece in enumerate(pieces(axis)):
        owner = rank if number else (rank + 1) % layout.size
        inner = layout.indices(piece, owner)
        kept.append(start + (np.arange(piece.size.first) if inner is None else inner))
        start += piece.size.first
    return np.concatenate(kept)


GROUPS_AND_HEADS, UNIFY_GROUPS = attention._groups_and_heads, convolution._unify_groups
GATES = cells.Step.gates


def heads_in_turns(site: Site) -> tuple[Axis, Axis]:
    """Give the groups of keys their queries in turns, not side by side."""
    groups, heads = GROUPS_AND_HEADS(site)
    turned = product(reversed(leaves(heads)))
    assert turned is not None
    return groups, turned


def channels_in_turns(axis: Axis | None, groups: Axis, each: Axis) -> None:
    UNIFY_GROUPS(axis, each, groups)


def in_rank_order(emit: relayout.Emitter, name: str, layout: Layout, axis: Axis, dim: int) -> str:
    return emit.all_gather(name, dim)


def with_foreign_rows(local: Local, axis: int, rows: str, foreign: str) -> Call:
    return Call("Identity", [rows], {}, domain="")


def largest_of_sums(site: Site, layout: Layout) -> str | None:
    return "max" if partial_op(site, layout) == "sum" else partial_op(site, layout)


def mentioned_alone(site: Site) -> set[Axis]:
    """Let pass what a rule does not account for."""
    return {atom for axis in site.needs_whole for atom in atoms(axis)}


KEEP, LEFT_OUT = halo.keep, Spread.edges


def one_place_early(emit: halo.Emitter, name: str, dim: int, held: range, wanted: range) -> str:
    """Take the places before those that are wanted, wherever some are."""
    if held.start < wanted.start:
        wanted = range(wanted.start - 1, wanted.stop - 1)
    return KEEP(emit, name, dim, held, wanted)


def with_one_before(window: Spread, made: range) -> tuple[int, int]:
    """Leave out one place less before what is made, and one more behind it."""
    before, behind = LEFT_OUT(window, made)
    return before - 1, behind + 1


def rounded_parts(site: Site) -> None:
    """Sum what is rounded on every rank."""
    convolution.qlinear_conv(site)
    channels = site.tensor(3).axes[1]
    site.needs_whole = [axis for axis in site.needs_whole if axis is not channels]
    site.contract(channels)


def in_torch_order(step: cells.Step, x: str, count: int, dim: int = 1) -> list[str]:
    """Take the four gates of an LSTM for i, f, c, o."""
    gates = GATES(step, x, count, dim)
    return [gates[k] for k in (0, 3, 1, 2)] if count == 4 else gates


def in_reset_order(step: cells.Step, x: str, count: int, dim: int = 1) -> list[str]:
    """Take the first gates of a GRU for r, z."""
    return GATES(step, x, count, dim)[:: -1 if count == 2 else 1]


EACH_DIM = Rule(einsum("...,...,...->..."))

FAULTS = {
    "the bias of a product is added by every rank": Fault(
        RULES, "Gemm", Rule(arithmetic.gemm), EVERY_AXIS, "mlp"
    ),
    "the bias of a convolution is added by every rank": Fault(
        convolution, "bias_once", with_every_bias, EVERY_AXIS, "cnn"
    ),
    "the bias of a product of int4 is added by every rank": Fault(
        contrib_blocks, "without_bias", with_every_bias, CONTRIB, "column_row"
    ),
    "what is whole is added to a sum by every rank": Fault(
        partition, "ADDED", set(), CHOSEN, "branches"
    ),
    "the queries of a packed weight are those of another rank": Fault(
        Layout, "_of_sum", with_others_first, EVERY_AXIS, "packed_qkv"
    ),
    "the heads of two groups are swapped": Fault(
        attention, "_groups_and_heads", heads_in_turns, OPERATOR, "Attention"
    ),
    "the channels of two groups are swapped": Fault(
        convolution, "_unify_groups", channels_in_turns, EVERY_AXIS, "cnn"
    ),
    "a mean over uneven parts is not weighed": Fault(
        RULES, "ReduceMean", Rule(arithmetic.reduction, mean_of_means), EVERY_AXIS,
        "grouped_queries",
    ),
    "a mean of integers is rounded on every rank": Fault(
        arithmetic, "_needs_all", lambda site: False, EVERY_AXIS, "pooled"
    ),
    "the first row of a part of a vocabulary is one too late": Fault(
        indexing, "bounds", one_row_late, EVERY_AXIS, "structure"
    ),
    "the rows of other ranks are looked up as the first": Fault(
        indexing, "zero_rows", with_foreign_rows, EVERY_AXIS, "structure"
    ),
    "parts are gathered in the order of the ranks": Fault(
        relayout, "_gather", in_rank_order, OPERATOR, "Attention"
    ),
    "the largest part of a sum is taken for it": Fault(
        partition, "partial_op", largest_of_sums, EVERY_AXIS, "mlp"
    ),
    "the largest of all parts is their sum": Fault(
        arithmetic.COMBINED, "ReduceMax", "sum", EVERY_AXIS, "grouped_queries"
    ),
    "what is not cut of a sum is summed by every rank": Fault(
        Layout, "covers", Layout.holds, EVERY_AXIS, "grouped_queries"
    ),
    "a dim that no rule mentions passes": Fault(
        Site, "whole_atoms", property(mentioned_alone), compare_summed_pools, "LpPool"
    ),
    "each rank normalises its part": Fault(
        RULES, "LayerNormalization", EACH_DIM, EVERY_AXIS, "normalised"
    ),
    "each rank begins a running sum anew": Fault(
        RULES, "CumSum", Rule(einsum("...,->...")), EVERY_AXIS, "structure"
    ),
    "each rank counts its own elements": Fault(
        RULES, "Size", Rule(structure.size), OPERATOR, "Size"
    ),
    "each rank rounds its summand": Fault(
        RULES, "QLinearConv", Rule(rounded_parts, convolution.local_qlinear_conv), OPERATOR,
        "QLinearConv",
    ),
    "a halo is of the places before those that a kernel reads": Fault(
        halo, "keep", one_place_early, HALOS, "a kernel"
    ),
    "a transposed convolution leaves out a place less": Fault(
        Spread, "edges", with_one_before, HALOS, "a padded transpose"
    ),
    "a mean over images of uneven height is not weighed": Fault(
        RULES, "GlobalAveragePool", Rule(arithmetic.global_pool, mean_of_means), HALOS,
        "a mean of all places",
    ),
    "the gates of an LSTM are in another order": Fault(
        cells.Step, "gates", in_torch_order, RECURRENT, "LSTM of every input, both ways"
    ),
    "the gates of a GRU are in another order": Fault(
        cells.Step, "gates", in_reset_order, RECURRENT, "GRU"
    ),
    "a sequence that has ended goes on": Fault(
        stepwise._Layer, "_held", lambda layer, valid, before, made: made, RECURRENT,
        "LSTM of lengths, backward",
    ),
    "a layer goes backward as it goes forward": Fault(
        stepwise._Layer, "_turned", lambda layer, name: name, RECURRENT,
        "RNN of every input, both ways",
    ),
    "a GRU resets what the product is made of": Fault(
        stepwise._Layer, "resets_after", False, RECURRENT, "GRU that resets after the product"
    ),
    "each rank cuts the first rows": Fault(holding, "cut_rows", first_rows, ON_ROWS, "0"),
    "each rank activates its summand": Fault(
        contrib, "_activate", lambda site: None, CONTRIB, "smooth"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    for folder in ("right", "wrong"):
        (tmp_path / folder).mkdir()
    fault.compare(fault.case, 2, tmp_path / "right")
    if isinstance(fault.where, dict):
        monkeypatch.setitem(fault.where, fault.name, fault.wrong)
    else:
        monkeypatch.setattr(fault.where, fault.name, fault.wrong)
    with pytest.raises(AssertionError, match=r"Not equal to tolerance|Arrays are not equal"):
        fault.compare(fault.case, 2, tmp_path / "wrong")
