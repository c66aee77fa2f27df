"""Sharded graphs, run side by side, against onnxruntime on the whole one."""

from __future__ import annotations

from pathlib import Path

import graphs
import lockstep
import numpy as np
import pytest
import ranks
from lockstep import assert_all_same, written

from rankwise.models.errors import NothingToShard
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan
from rankwise.models.sharding.analysis import analyse, tie
from rankwise.models.sharding.candidates import candidates, conflicts, shardable
from rankwise.models.sharding.heads import small_groups
from rankwise.models.sharding.layout import Layout

SIZES = (2, 3, 4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", graphs.CASES)
def test_every_axis_that_may_be_cut_gives_the_same_outputs(
    name: str, size: int, tmp_path: Path
) -> None:
    case = graphs.CASES[name]
    analysis = analyse(load(case.model))
    atoms = [atom for atom, _, _ in shardable(analysis, size)]
    assert atoms
    for k, atom in enumerate(atoms):
        directory = tmp_path / str(k)
        directory.mkdir()
        models = written(ranks.cut_along(analysis, atom, size), directory)
        assert_all_same(models, case)


@pytest.mark.parametrize("size", (1, *SIZES))
@pytest.mark.parametrize("name", graphs.CASES)
def test_what_is_chosen_gives_the_same_outputs(name: str, size: int, tmp_path: Path) -> None:
    case = graphs.CASES[name]
    models = written(plan(load(case.model), Mesh(tp=size)), tmp_path)
    assert_all_same(models, case)


def test_the_bias_of_a_partial_sum_is_on_one_rank_only() -> None:
    sharding = plan(load(graphs.MLP.model), Mesh(tp=3))
    assert ["b2" in part.held for part in sharding.parts] == [True, False, False]


def test_partial_sums_that_meet_are_reduced_once() -> None:
    sharding = plan(load(graphs.BRANCHES.model), Mesh(tp=2))
    reduced = [n.output[0] for n in sharding.parts[1].nodes if n.op_type == "AllReduce"]
    assert reduced == ["both", "z0", "u0"]


def test_partial_sums_that_must_not_meet_are_reduced_apart() -> None:
    sharding = plan(load(graphs.APART.model), Mesh(tp=2))
    reduced = [n.output[0] for n in sharding.parts[1].nodes if n.op_type == "AllReduce"]
    assert reduced == ["a", "c", "row", "d", "p", "q"]


def test_half_precision_sums_are_reduced_where_they_are_made() -> None:
    sharding = plan(load(graphs.half(graphs.BRANCHES).model), Mesh(tp=2))
    assert sharding.parts[0].collectives == {"AllReduce": 4}


def test_what_a_run_sends_counts_every_collective_that_is_written() -> None:
    part = plan(load(graphs.BRANCHES.model), Mesh(tp=4)).parts[0]
    assert part.sent == 3 * 2 * (4 * 16) * 3 / 4


def test_packed_heads_are_cut_by_head_in_each_third() -> None:
    analysis = analyse(load(graphs.PACKED_QKV.model))
    (heads,) = (c for c in candidates(analysis, 3) if c.atom.size.first == 6)
    layout = Layout(frozenset([heads.atom]), 3)
    kept = layout.indices(analysis.tensors["w"].axes[1], 1)
    thirds = np.arange(72).reshape(3, 6, 4)
    np.testing.assert_array_equal(kept, thirds[:, 2:4].reshape(-1))


def test_queries_are_taken_one_by_one_where_their_groups_are_too_few(tmp_path: Path) -> None:
    case = graphs.GROUPED_QUERIES
    analysis = analyse(load(case.model))
    assert small_groups(analysis, 3) == {}
    found = small_groups(analysis, 4)
    assert found == {"kk": "its 3 groups of 2 are too few for 4 ranks"}
    apart = tie(analysis.graph, analysis.measured, found)
    (heads,) = (c for c in candidates(apart, 4) if c.atom.size.first == 6)
    assert heads.weights == ("wq", "wo")
    sharding = ranks.cut_along(apart, heads.atom, 4)
    assert_all_same(written(sharding, tmp_path), case)


def test_two_axes_of_one_weight_exclude_each_other() -> None:
    analysis = analyse(load(graphs.MLP.model))
    found = candidates(analysis, 2)
    number = {candidate.weights: k for k, candidate in enumerate(found)}
    assert number["w1",] in conflicts(analysis, [c.atom for c in found])[number["w1", "b1", "w2"]]


def test_all_ranks_write_the_same_collectives_in_the_same_order() -> None:
    for case in graphs.CASES.values():
        sharding = plan(load(case.model), Mesh(tp=3))
        orders = {
            tuple((n.op_type, n.name) for n in part.nodes if n.domain == "rankwise")
            for part in sharding.parts
        }
        assert len(orders) == 1


def test_half_precision_parts_are_summed_in_float32(tmp_path: Path) -> None:
    case = graphs.half(graphs.CNN)
    models = written(plan(load(case.model), Mesh(tp=3)), tmp_path)
    (want,) = ranks.whole(case.model, case.feeds)
    for (got,) in lockstep.run(models, case.feeds):
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)
    reduced = {node.input[0] for node in models[0].graph.node if node.op_type == "AllReduce"}
    casts = {node.output[0] for node in models[0].graph.node if node.op_type == "Cast"}
    makers = [node for node in models[0].graph.node if node.output[0] in reduced]
    assert makers
    assert all(set(node.input) <= casts for node in makers)


def test_a_graph_without_weights_is_refused() -> None:
    model = graphs.build("(float[b,4] x) => (float[b,4] y) { y = Relu(x) }")
    with pytest.raises(NothingToShard, match="no weights"):
        plan(load(model), Mesh(tp=2))


def test_a_graph_of_operators_that_run_whole_is_refused_and_they_are_named() -> None:
    model = graphs.build(
        "(float[b,4] x) => (int64[2,n] y) { z = Add(x, w) \n y = NonZero(z) }", w=(1,)
    )
    with pytest.raises(NothingToShard, match=r"NonZero \(the size of its output depends on data"):
        plan(load(model), Mesh(tp=2))
