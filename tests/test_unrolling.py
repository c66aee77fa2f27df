"""ParallelFor taken apart, and bodies within it: names keep what they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from programs import model
from sessions import operand, run

from rankwise.models.errors import ModelError
from rankwise.models.nodes import attribute, captures, renamed
from rankwise.models.plan import build_plan
from rankwise.models.representations import per_rank, spmd

ENDS = "(float[2,2] x) => (float[a,b] y)"
TURNS = """
    two = Constant<value_int=2>()
    y = R.ParallelFor<returns="concat", body = b (int64 ID, float[2,2] v) => (float[2,2] o) {
        three = Constant<value_int=3>() own = Cast<to=1>(ID)
        sum = Loop (three, , own) <
            body = l (int64 i, bool go, float s) => (bool on, float t) {
                on = Identity(go) f = Cast<to=1>(i) t = Add(s, f) }>
        o = Add(v, sum) }> (two, x)
"""
HIDING = """
    two = Constant<value_int=2>()
    y = R.ParallelFor<returns="concat", body = b (int64 id, float[2,2] v) => (float[2,2] o) {
        o = Loop (two, , v) <
            body = l (int64 i, bool go, float[2,2] x) => (bool on, float[2,2] t) {
                on = Identity(go) t = Sub(v, x) }> }> (two, x)
"""


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (TURNS.replace("ID", "id"), lambda x, rank: x + rank + 3),
        (TURNS.replace("ID", "i"), lambda x, rank: x + rank + 3),
        (HIDING, lambda x, rank: x),
    ],
    ids=["apart", "an id named as what a loop counts", "an operand named as what a loop carries"],
)  # fmt: skip
def test_bodies_inside_keep_names_of_their_own(text: str, own: object) -> None:
    made = model(text, ENDS)
    onnx.shape_inference.infer_shapes(made, strict_mode=True)
    x = operand(0, 2, 2)
    expected = np.concatenate([own(x, rank) for rank in range(2)])  # type: ignore[operator]
    graphs = per_rank(made, 2)
    for one in (made, spmd(made, 2), lambda rank: graphs[rank]):
        for (y,) in run(2, one, lambda rank: {"x": x}):
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("(two, x, x)", "ParallelFor 'y': expected 3 inputs of its body, got 2"),
        ("(two)", "ParallelFor 'y': expected 1 inputs of its body, got 2"),
        ("()", "ParallelFor 'y': expected a count as the first input, got "),
    ],
)
def test_inputs_that_a_body_does_not_take_are_named(call: str, message: str) -> None:
    wrong = model(HIDING.replace("(two, x)", call), ENDS)
    for change in (spmd, build_plan):
        with pytest.raises(ModelError, match=message):
            change(wrong)


def sparse(name: str) -> onnx.SparseTensorProto:
    values = helper.make_tensor(name, TensorProto.FLOAT, [1], [2.0])
    places = helper.make_tensor("", TensorProto.INT64, [1], [1])
    return helper.make_sparse_tensor(values, places, [2])


def test_sparse_weights_of_a_parallel_for_go_with_its_body() -> None:
    made = model(HIDING.replace("Sub(v, x)", "Add(x, w)"), ENDS)
    body = attribute(made.graph.node[1], "body")
    assert isinstance(body, onnx.GraphProto)
    body.sparse_initializer.append(sparse("w"))
    x = operand(0, 2, 2)
    for one in (made, spmd(made, 2)):
        for (y,) in run(2, one, lambda rank: {"x": x}):
            np.testing.assert_array_equal(y, np.tile(x + np.float32([0, 4]), (2, 1)))


SPARSE = """y = If (c) <then_branch = t () => (float[2] a) { s = R.AllReduce(x) a = Add(s, w) },
                        else_branch = e () => (float[2] b) { b = R.AllReduce(x) }>"""


def test_sparse_weights_of_a_body_are_its_own() -> None:
    made = model(SPARSE, "(float[2] x, bool c) => (float[2] y)")
    then = attribute(made.graph.node[0], "then_branch")
    assert isinstance(then, onnx.GraphProto)
    then.sparse_initializer.append(sparse("w"))
    assert captures(then) == ["x"]
    node = renamed(made.graph.node[0], {"x": "w"})
    changed = attribute(node, "then_branch")
    assert isinstance(changed, onnx.GraphProto)
    assert changed.node[0].input == ["w"] and captures(changed) == ["w"]
    assert changed.sparse_initializer[0].values.name == changed.node[1].input[1] != "w"
    x = np.ones(2, np.float32)
    for (y,) in run(2, made, lambda rank: {"x": x, "c": np.array(True)}):
        np.testing.assert_array_equal(y, [2, 4])
