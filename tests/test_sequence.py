"""Sequence parallelism: which nodes run on rows, what that moves, and that all else stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import graphs
import lockstep
import numpy as np
import onnx
import pytest
import ranks
import zero_rows
from case import Case, half
from comparison import assert_same
from test_stages import decoder
from transformer import WIDTH, WORDS, tokens, transformer

from rankwise.models.errors import HintError
from rankwise.models.graph import load
from rankwise.models.sharding import describe, plan, preview, shard
from rankwise.models.sharding.hints import to_hints
from rankwise.models.sharding.machine import HERE
from rankwise.models.sharding.prediction import rank_work
from rankwise.models.sharding.regions import BY_ROW
from rankwise.models.sharding.search import Terms
from rankwise.models.sharding.sequence import STEPS
from rankwise.models.sharding.write import Sharding

FED = [(1, 5), (2, 7), (1, 1), (3, 2)]
"""Batches and lengths: of 5 tokens 3 ranks have 2, 2 and 1, of 1 token one rank has any."""

SEQUENCE = {"x0": {"dim": 1}}


def asked(mesh: str, layers: int = 2) -> Sharding:
    return plan(load(transformer(layers)), mesh, Terms(hints=to_hints(SEQUENCE)))


@pytest.mark.parametrize("mesh", ["tp=2", "tp=3", "tp=4", "tp=2,pp=2", "tp=2,dp=2"])
def test_rows_give_the_same_outputs_at_any_length(mesh: str, tmp_path: Path) -> None:
    sharding, model = asked(mesh), transformer()
    fed = [tokens(*sizes) for sizes in FED]
    got = ranks.run_each(sharding, fed, tmp_path)
    for runs in got:
        for outputs, feeds in zip(runs, fed, strict=True):
            assert_same(outputs, ranks.whole(model, feeds))


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("seed", "012")
def test_any_axis_may_be_that_of_the_rows(seed: str, size: int, tmp_path: Path) -> None:
    sharding = plan(load(transformer()), f"tp={size}")
    models = lockstep.written(ranks.on_rows(sharding, np.random.default_rng(int(seed))), tmp_path)
    for sizes in FED[:3]:
        feeds = tokens(*sizes)
        want = ranks.whole(transformer(), feeds)
        for outputs in lockstep.run(models, feeds):
            assert_same(outputs, want)


def test_half_precision_is_summed_in_float32_and_gathered_as_it_is(tmp_path: Path) -> None:
    case = half(Case(transformer(), tokens(2, 5)))
    sharding = ranks.on_rows(plan(load(case.model), "tp=3"))
    assert "ReduceScatter" in sharding.collectives
    want = ranks.whole(case.model, case.feeds)
    for got in ranks.run(sharding, case.feeds, tmp_path):
        np.testing.assert_allclose(got[0], want[0], rtol=2e-2, atol=2e-2 * np.abs(want[0]).max())
    made = [n.output[0] for n in sharding.parts[0].nodes if n.op_type == "ReduceScatter"]
    # Of the embedding one summand is not zero; half a sum is not carried through a Reshape.
    assert [name.endswith("float32") for name in made] == [False, True, True]
    gathered = [n.input[0] for n in sharding.parts[0].nodes if n.op_type == "AllGather"]
    assert not any(name.endswith("float32") for name in gathered)


def test_annotations_keep_sums_whole(tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", transformer()
    onnx.save(model, path)
    hints = to_hints(SEQUENCE)
    shard(path, tmp_path / "annotated", "tp=2", representation="annotated", hints=hints)
    found = plan(load(path), "tp=2", Terms(hints=hints))
    assert (
        "ReduceScatter"
        not in json.loads((tmp_path / "annotated" / "manifest.json").read_text())["collectives"]
    )
    assert "ReduceScatter" in found.collectives


def test_a_sum_becomes_a_scatter_and_what_a_product_reads_is_gathered() -> None:
    before, after = plan(load(transformer()), "tp=3"), asked("tp=3")
    assert before.collectives == {"AllReduce": 5, "AllGather": 1}
    assert after.collectives == {"ReduceScatter": 5, "AllGather": 6}
    residual, logits = 256 * WIDTH * 4, 256 * WORDS * 4
    sent = (5 * 2 * residual + logits) * 2 / 3
    assert after.parts[0].sent == pytest.approx(sent)
    assert before.parts[0].sent == pytest.approx(sent)
    along = {
        (node.op_type, attribute.i)
        for node in after.parts[0].nodes
        if node.domain == "rankwise"
        for attribute in node.attribute
        if attribute.name == "dim"
    }
    assert along == {("ReduceScatter", 1), ("AllGather", 1), ("AllGather", 2)}


def test_each_rank_makes_its_rows_of_norms_and_additions() -> None:
    before, after = plan(load(transformer()), "tp=3"), asked("tp=3")
    whole, own = rank_work(before, 0), rank_work(after, 0)
    assert own.multiply_adds == whole.multiply_adds
    (region,) = (region for region in after.choice.regions if region.is_taken)
    made = sum(np.prod(after.analysis.usual[name]) for name in region.rows)
    assert whole.made - own.made == pytest.approx(made * (1 - 86 / 256))


def test_rows_are_taken_where_they_save_more_than_they_cost() -> None:
    model, terms = load(transformer(1, width=600)), Terms(replace(HERE, cut=0.0))
    assert plan(model, "tp=2").collectives == {"AllReduce": 2, "AllGather": 1}
    wide = plan(model, "tp=2", terms)
    assert wide.collectives == {"ReduceScatter": 2, "AllGather": 3}
    (taken,) = (region for region in wide.choice.regions if region.is_taken)
    assert taken.saved > taken.spent > 0
    held = plan(model, "tp=2", replace(terms, hints=to_hints({"x0": "whole"})))
    assert held.collectives == {"AllReduce": 2, "AllGather": 1}
    narrow = plan(load(transformer()), "tp=2")
    assert narrow.collectives == {"AllReduce": 5, "AllGather": 1}


def test_a_model_with_states_has_rows_only_if_a_hint_asks(tmp_path: Path) -> None:
    wide = plan(load(decoder(2, width=512)), "tp=2", Terms(replace(HERE, cut=0.0)))
    assert "ReduceScatter" not in wide.collectives
    assert STEPS in {region.outcome for region in wide.choice.regions}
    model = decoder(2)
    sharding = plan(load(model), "tp=3", Terms(hints=to_hints({"x1": {"dim": 1}})))
    assert "ReduceScatter" in sharding.collectives
    past = {f"past_{k}": graphs.normal(2, 3, 96) for k in range(2)}
    fed = [tokens(2, length) | past for length in (1, 5)]
    for runs in ranks.run_each(sharding, fed, tmp_path):
        for outputs, feeds in zip(runs, fed, strict=True):
            assert_same(outputs, ranks.whole(model, feeds))


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        ({"q0": {"dim": 0}, "x0": {"dim": 1}}, "cannot cut dim 0"),
        ({"ids": {"dim": 1}, "x1": "whole"}, "cuts what hint 'x1' keeps whole"),
    ],
)
def test_a_hint_that_asks_for_no_rows_is_explained(hint: dict[str, object], why: str) -> None:
    with pytest.raises(HintError, match=why):
        plan(load(transformer()), "tp=2", Terms(hints=to_hints(hint)))


def test_inspect_and_dry_run_say_what_runs_on_rows() -> None:
    model = transformer().SerializeToString()
    (row,) = (row for row in describe(model).rows if row.sums == 5 and row.axis == "~223")
    assert (row.nodes, row.gathers, row.outcome) == (21, 5, "not worth it")
    found = preview(asked("tp=2"))
    assert [row.outcome for row in found.rows] == ["taken, as a hint asks"]
    assert "5 ReduceScatter" in str(found)
    assert "between sums over ranks" in str(found)
    asking = describe(model, terms=Terms(hints=to_hints(SEQUENCE)))
    cut = {row.name: row.cut for row in asking.operators}
    assert (cut["LayerNormalization"], cut["ReduceMean"]) == (2, 2)


@pytest.mark.parametrize("op_type", sorted(BY_ROW))
def test_an_operator_of_rows_takes_none(op_type: str) -> None:
    zero_rows.check(op_type)
