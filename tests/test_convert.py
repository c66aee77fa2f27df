"""Models from our operators to those of other systems, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from sessions import operand, operands, run

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.dialects import DIALECTS
from rankwise.models.dialects.conversion import converted
from rankwise.models.dialects.recognition import is_foreign
from rankwise.models.errors import ModelError
from rankwise.models.nodes import every_node
from rankwise.models.opset import attributes, is_ours
from rankwise.models.sharding import shard
from rankwise.runtime.cli import main


def model(body: str, ends: str = "(float[4,6] x) => (float[a,b] y)", **weights: Any) -> Any:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    made = parser.parse_model(f"{header} g {ends} {{ {body} }}")
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made


SAID = {
    "ort": ["AllReduce", "AllGather", "AllGather<dim=1>", "AllGather<dim=-1>", "AllToAll"],
    "ort-training": ["AllReduce", 'AllReduce<axis_name="tp">', 'AllReduce<axis_name="dp">'],
    "tensorrt": [
        "AllReduce", 'AllReduce<op="mean">', "AllGather", "Broadcast<root=1>", "Gather<root=1>",
        'Reduce<root=1, op="max">', "ReduceScatter", "AllToAll", "Scatter<root=1>",
        "AllReduce<groups=[1, 0], group_size=2>",
    ],
    "working-group": ["AllReduce", 'AllReduce<op="min">', "AllGather<dim=1>", "Scatter<root=1>"],
    "infinitensor": ["AllReduce", 'AllReduce<op="mean">', "Broadcast<root=1>"],
}  # fmt: skip
"""What each dialect says as it stands; ranks are 2."""


def nodes(made: onnx.ModelProto) -> list[tuple[str, list[str], list[str], dict[str, Any]]]:
    return [
        (node.op_type, list(node.input), list(node.output), attributes(node))
        for node in made.graph.node
        if is_ours(node)
    ]


@pytest.mark.parametrize(("dialect", "node"), [(d, n) for d, said in SAID.items() for n in said])
def test_what_a_dialect_can_say_comes_back_as_it_was(dialect: str, node: str) -> None:
    made = model(f"h = Neg(x) y = rankwise.{node}(h)")
    helper.set_model_props(made, {"rankwise.mesh": "dp=1,tp=2"})
    theirs = converted(made, dialect)
    assert any(map(is_foreign, theirs.graph.node)) and not any(map(is_ours, theirs.graph.node))
    assert nodes(converted(theirs, "rankwise")) == nodes(made)
    for ours, other in zip(run(2, made, feed), run(2, theirs, feed), strict=True):
        np.testing.assert_array_equal(ours, other)


def feed(rank: int) -> dict[str, Any]:
    return {"x": operand(rank, 4, 6)}


@pytest.mark.parametrize("dialect", ["ort-training", "working-group", "infinitensor"])
def test_messages_come_back_as_they_were(dialect: str) -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        body = (
            "t = rankwise.Send(x, one) y = Neg(x)"
            if rank == 0
            else "y = rankwise.Recv<dtype=1>(zero)"
        )
        made = model(body, one=np.int64(1), zero=np.int64(0))
        helper.set_model_props(made, {"rankwise.mesh": "tp=2", "rankwise.rank": str(rank)})
        return made

    theirs = [converted(of_rank(rank), dialect) for rank in range(2)]
    back = converted(theirs[1], "rankwise").graph.node
    assert [node.op_type for node in back if is_ours(node)] == ["Recv"]
    (first,), (second,) = run(2, lambda rank: theirs[rank], feed)
    np.testing.assert_array_equal(first, -operand(0, 4, 6))
    np.testing.assert_array_equal(second, operand(0, 4, 6))


def test_tokens_become_signals_and_come_back() -> None:
    made = model(
        "b = rankwise.Barrier() c = rankwise.Barrier() t = rankwise.Send<tag=2>(x, zero, b, c) "
        "y, u = rankwise.Recv<dtype=1, tag=2>(zero, t)",
        "(float[4,6] x) => (y)",
        zero=np.int64(0),
    )
    with pytest.raises(ModelError, match="Barrier 'b' cannot be said in ort-training: it has no"):
        converted(made, "ort-training")
    del made.graph.node[:2]
    for name in "bc":
        made.graph.initializer.append(numpy_helper.from_array(np.array(True), name))
    theirs = converted(made, "ort-training")
    kinds = [node.op_type for node in theirs.graph.node]
    assert kinds == ["And", "Send", "Recv"]
    assert theirs.graph.node[2].input[0] == theirs.graph.node[1].output[0] == "t"
    np.testing.assert_array_equal(run(1, theirs, feed)[0][0], operand(0, 4, 6))


def test_a_reduction_that_is_scattered_is_a_function_of_the_working_groups_operators() -> None:
    made = model('y = rankwise.ReduceScatter<op="max", dim=1>(x)')
    theirs = converted(made, "working-group")
    assert [function.name for function in theirs.functions] == ["TensorAllScatterReduce"]
    names = {node.op_type for node in every_node(theirs)}
    assert names == {"TensorAllScatterReduce", "TensorAllReduce", "TensorScatter"}
    total = np.max(operands(3, 4, 6), axis=0)
    for rank, (y,) in enumerate(run(3, theirs, feed)):
        np.testing.assert_array_equal(y, np.array_split(total, 3, 1)[rank])


def test_pieces_are_gathered_and_concatenated() -> None:
    theirs = converted(model("y = rankwise.AllGather(x)"), "infinitensor", 3)
    assert [node.op_type for node in theirs.graph.node] == ["AllGather", "Concat"]
    for (y,) in run(3, theirs, feed):
        np.testing.assert_array_equal(y, np.concatenate(operands(3, 4, 6)))


def test_from_one_of_theirs_to_another() -> None:
    ort = converted(model("y = rankwise.AllGather(x)"), "ort", 2)
    tensorrt = converted(ort, "tensorrt")
    (node,) = tensorrt.graph.node
    assert (node.op_type, helper.get_node_attr_value(node, "nb_rank")) == ("DistCollective", 2)
    for (y,) in run(2, tensorrt, feed):
        np.testing.assert_array_equal(y, np.concatenate(operands(2, 4, 6)))


def test_rank_and_size_of_a_graph_for_one_rank_become_numbers() -> None:
    body = "r = rankwise.Rank() p = rankwise.Size() s = Add(r, p) y = rankwise.AllReduce(s)"
    made = model(body, "(float[4,6] x) => (y)")
    helper.set_model_props(made, {"rankwise.mesh": "tp=3", "rankwise.rank": "2"})
    theirs = converted(made, "ort")
    values = [entry.i for node in theirs.graph.node[:2] for entry in node.attribute]
    assert values == [2, 3]


REFUSED = [
    ("ort", 'AllReduce<op="max">(x)', "it has no AllReduce with op='max'"),
    ("ort", "Broadcast(x)", "it has no Broadcast"),
    ("ort", "AllReduce<groups=[1, 0]>(x)", r"it has no groups, and this is one of .* \[1, 0\]"),
    ("ort", 'AllReduce<axis_name="tp">(x)', "the model does not say its rank"),
    ("ort", "AllGather(x)", "it takes the number of ranks, which is not known"),
    ("ort", "AllReduce(x, t)", "it has no tokens, which order this node"),
    ("ort", "Rank()", "no such operator, and the model does not say its rank"),
    ("ort", "AllToAll<groups=[0, 1, 2, 3, 4]>(x)", "whose dim 0 is known to be a multiple"),
    ("ort", "AllToAll<split_dim=1>(x)", "it has no AllToAll"),
    ("ort-training", 'AllReduce<axis_name="pp">(x)', "it has no 'pp'"),
    ("ort-training", "Broadcast(x)", "it has no Broadcast"),
    ("tensorrt", "AllGather<dim=1>(x)", "it has no AllGather"),
    ("tensorrt", 'Broadcast<dtype=1>("")', "it takes a tensor on every rank, and here is none"),
    ("tensorrt", "AllReduce<groups=[0, 1, 2, 3], group_size=2>(x)", "differs between ranks"),
    ("working-group", "AllReduce<groups=[0, 1]>(x)", "it has no groups"),
    ("infinitensor", "Recv<dtype=1, shape=[2]>(zero)", "takes the number of this rank"),
    ("infinitensor", "Recv<dtype=1, tag=1>(zero)", "it has no Recv"),
    ("infinitensor", "Recv<dtype=1>(p)", "it takes source as a number, which is not known"),
]


@pytest.mark.parametrize(("dialect", "node", "reason"), REFUSED)
def test_what_a_dialect_cannot_say_is_refused_with_node_and_reason(
    dialect: str, node: str, reason: str
) -> None:
    ends = "(float[4,6] x, bool t, int64 p) => (y)"
    made = model(f"y = rankwise.{node}", ends, zero=np.int64(0))
    expected = rf"^\w+ 'y' cannot be said in {dialect}: .*{reason}"
    with pytest.raises(ModelError, match=expected) as caught:
        converted(made, dialect)
    assert "\n" not in str(caught.value)


def mlp(path: Path) -> Path:
    weights = {"w1": operand(1, 6, 12), "w2": operand(2, 12, 4)}
    made = model(
        "h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)", "(float[n,6] x) => (float[n,4] y)",
        **weights,
    )  # fmt: skip
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("dialect", ["ort", "tensorrt", "rankwise"])
def test_a_directory_is_converted_and_runs(tmp_path: Path, dialect: str) -> None:
    source, ours, theirs = (tmp_path / name for name in ("mlp.onnx", "ours", "theirs"))
    shard(mlp(source), ours, "tp=3")
    assert main(["convert", str(ours), "-o", str(theirs), "--to", dialect]) == 0
    theirs_alone = onnx.load(theirs / "rank1.onnx")
    assert any(map(is_foreign, theirs_alone.graph.node)) == (dialect != "rankwise")

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(theirs, comm=comm) as session:
            return session.run(None, {"x": operand(0, 2, 6)})[0]

    expected = np.maximum(operand(0, 2, 6) @ operand(1, 6, 12), 0) @ operand(2, 12, 4)
    for y in local.run(3, on_rank):
        np.testing.assert_allclose(y, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain.onnx", "-o", "new.onnx", "--to", "ort"], "expected a model that communicates"),
        (["made.onnx", "-o", "made.onnx", "--to", "ort"], "expected an output beside made.onnx"),
        (["made.onnx", "-o", "new.onnx", "--to", "onnx"], "invalid choice: 'onnx'"),
        (["made.onnx", "-o", ".", "--to", "ort"], "expected a file to write to, but . is a"),
        (["made.onnx", "-o", "a", "--to", "ort", "--ranks", "0"], "--ranks of at least 1"),
        (["made.onnx", "-o", "a", "--to", "ort-training"], "Barrier 't' cannot be said in"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    mlp(tmp_path / "plain.onnx")
    onnx.save(model("t = rankwise.Barrier() y = rankwise.AllReduce(x)"), "made.onnx")
    before = sorted(tmp_path.iterdir())
    assert main(["convert", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_data_beside_a_model_goes_with_it(tmp_path: Path) -> None:
    made = model("h = Add(x, w) y = rankwise.AllReduce(h)", w=operand(3, 4, 6))
    source, target = tmp_path / "made.onnx", tmp_path / "there" / "new.onnx"
    onnx.save(made, source, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert main(["convert", str(source), "-o", str(target), "--to", "ort"]) == 0
    for (y,) in run(2, onnx.load(target), feed):
        np.testing.assert_array_equal(y, sum(operands(2, 4, 6)) + 2 * operand(3, 4, 6))
    assert main(["convert", str(source), "-o", str(target), "--to", "ort"]) == 2
    assert set(DIALECTS) == set(SAID)
