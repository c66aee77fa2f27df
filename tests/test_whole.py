"""Nodes that every rank computes whole: what they read is whole, what they draw is the same."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
import ranks
from comparison import assert_same

from rankwise.models.graph import load
from rankwise.models.sharding import describe
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import shardable

BRANCH = graphs.build(
    """(float[4,8] x, bool c) => (float[4,6] y) {
      h = MatMul(x, w1)
      z = If (c) <
        then_branch = a () => (float[4,12] u) { u = Relu(h) },
        else_branch = b () => (float[4,12] v) { v = Neg(h) }
      >
      y = MatMul(z, w2)
    }""",
    w1=(8, 12),
    w2=(12, 6),
)
LOOP = graphs.build(
    """(float[4,8] x, int64 n) => (float[4,6] y) {
      h = MatMul(x, w1)
      go = Constant <value_int=1> ()
      t = Cast <to=9> (go)
      s0 = Mul(h, zero)
      s = Loop (n, t, s0) <body = b (int64 i, bool more, float[4,12] before)
          => (bool still, float[4,12] after) {
        still = Identity(more)
        after = Add(before, h)
      }>
      y = MatMul(s, w2)
    }""",
    w1=(8, 12),
    w2=(12, 6),
    zero=np.float32(0),
)
SCAN = graphs.build(
    """(float[4,5,8] x) => (float[5,6] last, float[4,5,6] sums) {
      h = MatMul(x, w1)
      k = ReduceMax <keepdims=0> (x)
      z = MatMul(h, w2)
      last, sums = Scan <num_scan_inputs=1, body = b (float[] before, float[] row)
          => (float[] after, float[] made) {
        after = Add(before, row)
        made = Mul(after, k)
      }> (start, z)
    }""",
    w1=(8, 12),
    w2=(12, 6),
    start=(5, 6),
)
"""A scalar from before a collective: onnxruntime gives it no rank, and its Scan asks for one."""


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize(
    ("model", "feeds"),
    [
        (BRANCH, {"c": np.array(True)}),
        (BRANCH, {"c": np.array(False)}),
        (LOOP, {"n": np.array(3)}),
        (SCAN, {}),
    ],
    ids=["then", "else", "loop", "scan"],
)
def test_what_a_body_reads_is_whole(
    model: onnx.ModelProto, feeds: dict[str, object], size: int, tmp_path: Path
) -> None:
    x = model.graph.input[0].type.tensor_type.shape.dim
    feeds = {"x": graphs.normal(*(dim.dim_value for dim in x)), **feeds}
    expected, analysis = ranks.whole(model, feeds), analyse(load(model))
    atoms = ranks.passing(analysis, size, "MatMul")
    assert 12 in {atom.size.first for atom in atoms}
    for k, atom in enumerate(atoms):
        folder = tmp_path / str(k)
        folder.mkdir()
        for got in ranks.run(ranks.cut_along(analysis, atom, size), feeds, folder):
            assert_same(got, expected)


DRAWN = "(float[4,8] x) => (float[4,6] y) { h = MatMul(x, w1) \n %s \n y = MatMul(r, w2) }"


@pytest.mark.parametrize(
    "draw",
    [
        "r = RandomNormalLike(h)",
        "p = Sigmoid(h) \n r = Bernoulli(p)",
        "r, m = Dropout(h, half, yes)",
        """r = If (yes) <
          then_branch = a () => (float[4,12] u) { u = RandomUniformLike(h) },
          else_branch = b () => (float[4,12] v) { v = Neg(h) }
        >""",
    ],
)
def test_all_ranks_have_the_numbers_that_one_has_drawn(draw: str, tmp_path: Path) -> None:
    constants = {"half": np.float32(0.5), "yes": np.array(True)}
    used = {name: value for name, value in constants.items() if name in draw}
    model = graphs.build(DRAWN % draw, w1=(8, 12), w2=(12, 6), **used)
    analysis = analyse(load(model))
    (atom,) = (a for a in ranks.passing(analysis, 3, "MatMul") if a.size.first == 6)
    sharding = ranks.cut_along(analysis, atom, 3)
    assert sharding.parts[0].collectives["Broadcast"] == 1 + ("Dropout" in draw)
    first, *others = ranks.run(sharding, {"x": graphs.normal(4, 8)}, tmp_path)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_what_is_drawn_from_a_seed_needs_no_broadcast(tmp_path: Path) -> None:
    draw = "r = RandomNormalLike <seed=3.0> (h)"
    model = graphs.build(DRAWN % draw, w1=(8, 12), w2=(12, 6))
    feeds = {"x": graphs.normal(4, 8)}
    analysis = analyse(load(model))
    (atom,) = (a for a in ranks.passing(analysis, 2, "MatMul") if a.size.first == 6)
    sharding = ranks.cut_along(analysis, atom, 2)
    assert "Broadcast" not in sharding.parts[0].collectives
    for got in ranks.run(sharding, feeds, tmp_path):
        assert_same(got, ranks.whole(model, feeds))


def test_a_quantized_tensor_of_zeros_has_the_scale_that_onnxruntime_gives(tmp_path: Path) -> None:
    model = graphs.build(
        """(float[4,8] x) => (uint8[4,7] y, float s, uint8 z) {
          h = MatMul (x, w) \n y, s, z = DynamicQuantizeLinear (h) }""",
        w=(8, 7),
    )
    feeds = {"x": np.zeros((4, 8), np.float32)}
    analysis = analyse(load(model))
    atoms = ranks.passing(analysis, 2, "ReduceMax")
    assert sorted(atom.size.first for atom in atoms) == [4, 7]
    for got in ranks.run(ranks.cut_along(analysis, atoms[0], 2), feeds, tmp_path):
        assert_same(got, ranks.whole(model, feeds))


def test_what_no_collective_can_carry_is_not_cut() -> None:
    model = graphs.build("(string[4,6] x) => (string[6,4] y) { y = Transpose(x) }")
    assert list(shardable(analyse(load(model)), 2)) == []


def test_a_mean_stays_whole_where_it_could_not_be_weighed() -> None:
    text = "(float[4,8] x) => (float[4,1] y) { y = ReduceMean <axes=[1]> (x) }"
    sizes = [
        [atom.size.first for atom in ranks.passing(analyse(load(graphs.build(text, n))), 2)]
        for n in (6, 11)
    ]
    assert sizes == [[4], [4, 8]]


def test_a_split_may_give_nothing(tmp_path: Path) -> None:
    model = graphs.build(
        """(float[4,8] x) => (float[4,6] a, float[4,0] b) {
          h = MatMul(x, w) \n a, b = Split <axis=1> (h, sizes) }""",
        w=(8, 6),
        sizes=[6, 0],
    )
    feeds = {"x": graphs.normal(4, 8)}
    analysis = analyse(load(model))
    (atom,) = (a for a in ranks.passing(analysis, 2, "Split") if a.size.first == 6)
    for got in ranks.run(ranks.cut_along(analysis, atom, 2), feeds, tmp_path):
        assert_same(got, ranks.whole(model, feeds))


@pytest.mark.parametrize(
    ("model", "op_type", "reason"),
    [
        (
            graphs.build(
                "(float[4,8] x) => (int64[2,n] y) { h = MatMul(x, w) \n y = NonZero(h) }", w=(8, 6)
            ),
            "NonZero",
            "the size of its output depends on data",
        ),
        (
            graphs.build(
                "(float[n,8] x) => (float[] y) { h = MatMul(x, w) y = Squeeze(h) }", w=(8, 6)
            ),
            "Squeeze",
            "depends on sizes that only a run knows",
        ),
        (
            graphs.build(
                "(float[5,4,3] x) => (float[5,1,4,1] y) { y = GRU <hidden_size=1> (x, w, r) }",
                w=(1, 3, 3),
                r=(1, 3, 1),
            ),
            "GRU",
            "hidden units stay together",
        ),
    ],
)
def test_a_description_says_why_an_operator_runs_whole(
    model: onnx.ModelProto, op_type: str, reason: str
) -> None:
    rows = {row.name: row.whole for row in describe(model.SerializeToString()).operators}
    assert [count for text, count in rows[op_type].items() if reason in text] == [1]
