"""Operators of onnxruntime's own: shapes as in a run, and sharded graphs against whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import contrib_graphs
import numpy as np
import onnx
import pytest
import ranks
from case import Case, build, half, normal
from comparison import assert_same

from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import describe, plan
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.axes import atoms
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.layout import Layout
from rankwise.models.sharding.rules.contrib import CONTRIB, REASONS
from rankwise.models.sharding.search import choose
from rankwise.models.sharding.write import Sharding

SIZES = (2, 3, 4)
CASES, FIXED = contrib_graphs.CASES, contrib_graphs.FIXED


def alone(case: Case) -> list[Any]:
    """Return the whole graph's outputs, its nodes as they are written."""
    return ranks.whole(case.model, case.feeds, is_optimised=False)


def assert_all_same(sharding: Sharding, case: Case, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    expected = alone(case)
    assert all(np.isfinite(array).all() for array in expected)
    for outputs in ranks.run(sharding, case.feeds, folder, is_optimised=False):
        assert_same(outputs, expected)


ELSEWHERE = {"LayerNormalization"}
"""Operators that the onnxruntime of the tests has no kernel for."""


def test_every_rule_is_in_some_graph_here() -> None:
    found = {node.op_type for case in CASES.values() for node in case.model.graph.node}
    reasons = " ".join(REASONS.values()).split()
    assert CONTRIB.keys() - reasons - ELSEWHERE <= found
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("knows_shape", (False, True))
def test_an_operator_without_a_rule_says_why_and_what_follows_is_cut(knows_shape: bool) -> None:
    model = build(
        """(float[b,s,20] x) => (float[b,s,9] y) {
          h = MatMul(x, w1)
          a = .SparseAttention <num_heads=4, kv_num_heads=4, sparse_block_size=16> (h)
          y = MatMul(a, w2)
        }""",
        w1=(20, 40),
        w2=(40, 9),
    )
    if knows_shape:
        kind = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["b", "s", 40])
        model.graph.value_info.append(kind)
    found = describe(model.SerializeToString())
    whole = {row.name: row.whole for row in found.operators}
    assert whole["SparseAttention"] == {"its heads share a pattern of blocks": 1}
    cut = {name for c in plan(load(model), Mesh(tp=2)).choice.chosen for name in c.weights}
    assert cut == ({"w1", "w2"} if knows_shape else {"w1"})


ALL_SIZES = [*((name, size) for name in CASES for size in SIZES), *((n, 2) for n in FIXED)]
LARGER = [pytest.param(name, size, marks=pytest.mark.slow) for name in FIXED for size in (3, 4)]


@pytest.mark.parametrize(("name", "size"), [*ALL_SIZES, *LARGER])
def test_every_axis_that_may_be_cut_gives_the_same_outputs(
    name: str, size: int, tmp_path: Path
) -> None:
    case = (CASES | FIXED)[name]
    analysis = analyse(load(case.model))
    found = [atom for atom, _, _ in shardable(analysis, size)]
    assert found
    for k, atom in enumerate(found):
        assert_all_same(ranks.cut_along(analysis, atom, size), case, tmp_path / str(k))


@pytest.mark.parametrize("name", CASES)
def test_no_operator_is_whole_for_want_of_a_rule(name: str) -> None:
    analysis = analyse(load(CASES[name].model))
    assert {site.node.op_type: site.obstacle for site in analysis.sites if site.obstacle} == {}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_what_is_chosen_gives_the_same_outputs(name: str, size: int, tmp_path: Path) -> None:
    case = CASES[name]
    assert_all_same(plan(load(case.model), Mesh(tp=size)), case, tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_a_decoder_of_int4_gives_the_same_logits_and_caches(size: int, tmp_path: Path) -> None:
    case = contrib_graphs.LANGUAGE_MODEL
    assert_all_same(plan(load(case.model), Mesh(tp=size)), case, tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_column_row_pairs_of_a_decoder_need_two_sums_a_layer(size: int, tmp_path: Path) -> None:
    case = contrib_graphs.LANGUAGE_MODEL
    analysis = analyse(load(case.model))
    sharding = ranks.cut_along(analysis, choose(analysis, 4).layout.sharded, size)
    assert_all_same(sharding, case, tmp_path)
    assert sharding.parts[0].collectives["AllReduce"] == 2 * 2 + 1
    first, last = (sharding.parts[rank].held for rank in (0, -1))
    for layer in "01":
        assert first[f"qkv{layer}_q/local"].shape[0] == 32 * 4 * -(-4 // size)
        assert first[f"o{layer}_q/local"].shape[1] == 2 * -(-4 // size)
        assert last[f"up{layer}_z/local"].shape[0] == 64 * (9 // size)
        assert last[f"down{layer}_z/local"].shape[1] == 9 // size


@pytest.mark.parametrize("size", (3, 4))
def test_a_decoder_is_cut_in_pairs_by_the_search(size: int) -> None:
    sharding = plan(load(contrib_graphs.LANGUAGE_MODEL.model), Mesh(tp=size))
    cut = [candidate.weights for candidate in sharding.choice.chosen]
    for layer in "01":
        heads = f"qkv{layer}_q qkv{layer}_s qkv{layer}_z o{layer}_q o{layer}_s o{layer}_z".split()
        assert tuple(heads) in cut
        assert any(weights[0] == f"gate{layer}_q" for weights in cut)
    assert sharding.parts[0].collectives["AllReduce"] == 5


def local_attributes(case: Case, size: int, op_type: str, atom: int) -> list[dict[str, Any]]:
    """Attributes of the first such node on each rank, with the first atom of that size cut."""
    analysis = analyse(load(case.model))
    (found, *_) = (a for a, _, _ in shardable(analysis, size) if a.size.first == atom)
    nodes = [
        next(node for node in part.nodes if node.op_type == op_type)
        for part in ranks.cut_along(analysis, found, size).parts
    ]
    return [{e.name: onnx.helper.get_attribute_value(e) for e in node.attribute} for node in nodes]


def test_seven_heads_lie_on_two_ranks_as_four_and_three() -> None:
    own = local_attributes(CASES["seven_heads"], 2, "GroupQueryAttention", 7)
    assert [(a["num_heads"], a["kv_num_heads"]) for a in own] == [(4, 4), (3, 3)]


def test_heads_of_all_groups_are_cut_where_groups_are_too_few() -> None:
    own = local_attributes(CASES["one_group"], 4, "GroupQueryAttention", 6)
    assert [(a["num_heads"], a["kv_num_heads"]) for a in own] == [(2, 1), (2, 1), (1, 1), (1, 1)]
    own = local_attributes(CASES["packed_groups"], 4, "GroupQueryAttention", 4)
    assert [(a["num_heads"], a["kv_num_heads"]) for a in own] == [(2, 2)] * 4


def test_the_widths_of_narrow_values_follow_the_heads() -> None:
    own = local_attributes(CASES["narrow_values"], 3, "Attention", 5)
    assert [a["qkv_hidden_sizes"] for a in own] == [[16, 16, 8], [16, 16, 8], [8, 8, 4]]


@pytest.mark.parametrize("bits", (2, 4))
def test_blocks_whose_zero_points_share_a_byte_are_cut(bits: int, tmp_path: Path) -> None:
    case = contrib_graphs.column_row(16, bits, count=7)
    analysis = analyse(load(case.model))
    (blocks,) = atoms(analysis.tensors["b_s"].axes[1])
    for size in SIZES:
        sharding = ranks.cut_along(analysis, blocks, size)
        assert_all_same(sharding, case, tmp_path / str(size))
        assert sharding.parts[0].held["b_q/local"].shape == (9, -(-7 // size), 2 * bits)
        assert sharding.parts[0].collectives == {"AllReduce": 1}


def test_the_words_of_an_embedding_are_cut_by_row() -> None:
    analysis = analyse(load(CASES["embedding"].model))
    cut = {atom for atom, _, _ in shardable(analysis, 3)}
    for weight in ("words", "places"):
        assert set(atoms(analysis.tensors[weight].axes[0])) <= cut


def kept(model: onnx.ModelProto, size: int, weight: str, dim: int) -> list[int]:
    """Indices of a weight that the last of 2 ranks has, with the atom of that size cut.

    For what onnxruntime computes on other processors only.
    """
    analysis = analyse(load(model))
    assert not any(site.obstacle for site in analysis.sites)
    axis = analysis.tensors[weight].axes[dim]
    cut = {atom for atom, _, _ in shardable(analysis, 2)} & set(atoms(axis))
    found = Layout({atom for atom in cut if atom.size.first == size}, 2).indices(axis, 1)
    assert found is not None
    return found.tolist()


def test_gate_and_value_in_halves_are_cut_in_each_half() -> None:
    model = contrib_graphs.expert_mixture(2, "swiglu").model
    assert kept(model, 7, "w1", 1) == [4, 5, 6, 11, 12, 13]
    assert kept(model, 7, "w2", 2) == [4, 5, 6]


def test_gate_and_value_in_two_matrices_are_cut_alike() -> None:
    model = contrib_graphs.expert_mixture(0, "silu").model
    model.graph.node[-1].input[6:] = ["w3"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(normal(5, 7, 12), "w3"))
    assert kept(model, 7, "w1", 1) == kept(model, 7, "w3", 1) == [4, 5, 6]


def test_heads_that_hold_query_key_and_value_each_are_cut_by_head() -> None:
    model = build(
        """(float[b,s,20] x) => (float[b,s,9] y) {
          p = MatMul(x, w)
          shape = Constant <value_ints=[0,0,5,3,8]> ()
          qkv = Reshape(p, shape)
          h = .MultiHeadAttention <num_heads=5> (qkv)
          y = MatMul(h, wo)
        }""",
        w=(20, 120),
        wo=(40, 9),
    )
    assert kept(model, 5, "w", 1) == list(range(72, 120))
    assert kept(model, 5, "wo", 0) == list(range(24, 40))


@pytest.mark.parametrize("name", ("packed_groups", "column_row", "table_with_zeros", "experts"))
def test_half_precision_is_near_the_whole_graph(name: str, tmp_path: Path) -> None:
    case = half(CASES[name])
    expected, analysis = alone(case), analyse(load(case.model))
    found = [atom for atom, _, _ in shardable(analysis, 2)]
    assert found
    for k, atom in enumerate(found):
        (tmp_path / str(k)).mkdir()
        sharding = ranks.cut_along(analysis, atom, 2)
        for got in ranks.run(sharding, case.feeds, tmp_path / str(k), is_optimised=False):
            assert_same(got, expected)
