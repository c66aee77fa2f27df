"""What other tools do to files that communicate: kept, or refused when they are loaded.

Each tool is run over one graph, whose order is stated in each of the three ways: on the file of
one rank, and on those of all. What comes out gives the same results, or is refused in one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from onnx import compose, numpy_helper, parser, shape_inference, version_converter
from sessions import Array, operand, run

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.errors import ModelError
from rankwise.models.functions.lower import lower
from rankwise.models.plan import build_plan
from rankwise.models.plan.seal import seal_of, set_seal
from rankwise.models.tokens import ordered

GRAPH = """
    <ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>
    g (float[n,3] x) => (float[n,3] y) {
        one = Constant<value_int=1>() two = Add(one, one) zero = Sub(two, two)
        rank = rankwise.Rank() size = rankwise.Size()
        ahead = Add(rank, one) right = Mod(ahead, size)
        behind = Add(rank, size) behind1 = Sub(behind, one) left = Mod(behind1, size)
        a = Neg(x) i = Identity(a)
        token = rankwise.Send<tag=3>(i, right)
        r = rankwise.Recv<dtype=1, tag=3>(left)
        p = rankwise.AllReduce(x)
        q = rankwise.AllReduce(x)
        unread = rankwise.AllReduce<op="max">(x)
        done = rankwise.Barrier()
        s = Mul(p, q) z = Add(s, w) y = Add(z, r)
    }"""

TAIL = """
    <ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>
    h (float[n,3] before) => (float[n,3] after) { after = Identity(before) }"""

Tool = Callable[[onnx.ModelProto], onnx.ModelProto]


def graph() -> onnx.ModelProto:
    made = parser.parse_model(GRAPH)
    made.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "w"))
    for node in made.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return made


def merged(model: onnx.ModelProto) -> onnx.ModelProto:
    return compose.merge_models(model, parser.parse_model(TAIL), [("y", "before")])


def by_ir(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """One pass of onnx_ir."""
    ir = importlib.import_module("onnx_ir")
    passes = importlib.import_module("onnx_ir.passes.common")
    return ir.to_proto(getattr(passes, name)()(ir.from_proto(model)).model)


def by_surgeon(model: onnx.ModelProto) -> onnx.ModelProto:
    surgeon = importlib.import_module("onnx_graphsurgeon")
    return surgeon.export_onnx(surgeon.import_onnx(model).cleanup().toposort())


def of(module: str, function: str) -> Tool:
    return lambda model: getattr(importlib.import_module(module), function)(model)


TOOLS: dict[str, tuple[str, Tool]] = {
    "shape inference": ("onnx", lambda m: shape_inference.infer_shapes(m, data_prop=True)),
    "version converter": ("onnx", lambda m: version_converter.convert_version(m, 21)),
    "prefixes": ("onnx", lambda m: compose.add_prefix(m, "p/", rename_inputs=False)),
    "merging": ("onnx", merged),
    "inliner": ("onnx", onnx.inliner.inline_local_functions),
    "text": ("onnx", lambda m: parser.parse_model(onnx.printer.to_text(m))),
    "extraction": ("onnx", lambda m: onnx.utils.Extractor(m).extract_model(["x"], ["y"])),
    "onnxscript.optimizer": ("onnxscript", of("onnxscript.optimizer", "optimize")),
    "onnxscript.rewriter": ("onnxscript", of("onnxscript.rewriter", "rewrite")),
    "onnx_ir equal nodes": (
        "onnx_ir", lambda m: by_ir(m, "CommonSubexpressionEliminationPass")
    ),
    "onnx_ir unused nodes": ("onnx_ir", lambda m: by_ir(m, "RemoveUnusedNodesPass")),
    "onnx_ir sort": ("onnx_ir", lambda m: by_ir(m, "TopologicalSortPass")),
    "onnxoptimizer": ("onnxoptimizer", of("onnxoptimizer", "optimize")),
    "onnxsim": ("onnxsim", lambda m: of("onnxsim", "simplify")(m)[0]),  # type: ignore[index]
    "graphsurgeon": ("onnx_graphsurgeon", by_surgeon),
}  # fmt: skip

REFUSED = {
    "prefixes", "onnxscript.optimizer", "onnxscript.rewriter", "onnx_ir unused nodes",
    "onnxoptimizer", "onnxsim",
}  # fmt: skip
"""Tools that keep the seal and change names or effects, whichever way the order is stated."""

KEPT = {"shape inference", "version converter", "merging", "inliner", "onnx_ir sort"}
"""Tools that change nothing that matters."""


def applied(name: str, made: onnx.ModelProto) -> onnx.ModelProto:
    module, tool = TOOLS[name]
    pytest.importorskip(module)
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    return tool(copy)


def outcome(size: int, of_rank: Callable[[int], onnx.ModelProto]) -> list[Array] | str:
    """The results of all ranks, or the line in which they are refused."""
    try:
        return [y for (y,) in run(size, of_rank, lambda rank: {"x": operand(rank, 2, 3)})]
    except ModelError as error:
        return str(error)


@pytest.mark.parametrize("how", ["plain", "tokens", "annotation"])
@pytest.mark.parametrize("name", TOOLS)
def test_a_file_is_as_it_was_or_refused(name: str, how: Any) -> None:
    made = ordered(graph(), how)
    changed = applied(name, made)
    expected = outcome(2, lambda rank: made)
    for changed_ranks in ({0}, {0, 1}):
        got = outcome(2, lambda rank, among=changed_ranks: changed if rank in among else made)
        if isinstance(got, str):
            assert "\n" not in got
        else:
            np.testing.assert_array_equal(got, expected)
        assert isinstance(got, str) or name not in REFUSED
        assert not isinstance(got, str) or name not in KEPT, got


def changed_by_hand(made: onnx.ModelProto, change: str) -> onnx.ModelProto:
    nodes = {node.name: node for node in made.graph.node}
    if change == "a Send is removed":
        made.graph.node.remove(nodes["Send_token"])
    elif change == "an effect is doubled":
        twin = made.graph.node.add()
        twin.CopyFrom(nodes["Barrier_done"])
        twin.name, twin.output[0] = "Barrier_again", "again"
    elif change == "an attribute is dropped":
        del nodes["AllReduce_unread"].attribute[:]
    elif change == "effects are swapped":
        first, second = nodes["AllReduce_p"], nodes["AllReduce_q"]
        first.name, second.name = second.name, first.name
    elif change == "everything is removed":
        for name in [name for name, node in nodes.items() if node.domain == "rankwise"]:
            made.graph.node.remove(nodes[name])
        del made.graph.node[:]
        made.graph.node.add(op_type="Neg", input=["x"], output=["y"])
    return made


CHANGES = [
    "a Send is removed", "an effect is doubled", "an attribute is dropped", "effects are swapped",
    "everything is removed",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_change_of_what_is_sealed_is_refused(change: str, size: int) -> None:
    made = changed_by_hand(ordered(graph(), "plain"), change)
    refused = outcome(size, lambda rank: made)
    assert isinstance(refused, str) and "when the file was made" in refused


def test_numbers_tell_what_is_missing_without_metadata() -> None:
    made = changed_by_hand(ordered(graph(), "annotation"), "a Send is removed")
    set_seal(made, None)
    with pytest.raises(ModelError, match="is number 2 of 6 that communicate, but there are 5"):
        build_plan(made)


def test_what_was_never_sealed_runs_as_it_stands() -> None:
    assert seal_of(graph()) is None
    assert seal_of(ordered(graph(), "plain")) == seal_of(ordered(graph(), "plain")) != ""
    expected = outcome(2, lambda rank: ordered(graph(), "plain"))
    np.testing.assert_array_equal(outcome(2, lambda rank: graph()), expected)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_onnxruntime_sees_what_lies_between_effects_alone(level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    data = ordered(graph(), "plain").SerializeToString()

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(data, options, comm=comm) as session:
            return session.run(None, {"x": operand(comm.rank, 2, 3)})[0]

    np.testing.assert_array_equal(local.run(3, on_rank), outcome(3, lambda rank: graph()))


@pytest.mark.parametrize("functions", ["native", "literal"])
def test_what_is_lowered_is_sealed_as_it_is_written(functions: Any) -> None:
    made = lower(ordered(graph(), "plain"), {"AllReduce": "ring"}, None)
    expected = outcome(3, lambda rank: graph())

    def on_rank(source: onnx.ModelProto, comm: Communicator) -> Any:
        data = source.SerializeToString()
        with rankwise.InferenceSession(data, comm=comm, functions=functions) as session:
            return session.run(None, {"x": operand(comm.rank, 2, 3)})[0]

    np.testing.assert_array_equal(local.run(3, partial(on_rank, made)), expected)
    broken = changed_by_hand(made, "a Send is removed")
    with pytest.raises(ModelError, match="when the file was made"):
        local.run(3, partial(on_rank, broken))


BODY = """
    <ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>
    g (float[n,3] x) => (float[n,3] y) {
        three = Constant<value_int=3>()
        y = Loop (three, , x) <body = b (int64 i, bool go, float[n,3] v) =>
            (bool on, float[n,3] w) {
                on = Identity(go) w = rankwise.AllReduce(v) unread = rankwise.Barrier()
        }>
    }"""


def test_a_change_in_a_body_is_refused() -> None:
    made = ordered(parser.parse_model(BODY), "plain")
    (y,) = run(1, made, lambda rank: {"x": operand(0, 2, 3)})[0]
    np.testing.assert_array_equal(y, operand(0, 2, 3))
    del made.graph.node[1].attribute[0].g.node[2:]
    with pytest.raises(ModelError, match=r"expected the 3 nodes that communicate .*, got 2"):
        build_plan(made)
