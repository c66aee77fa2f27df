"""A random graph as the body of an If or of a Loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.random import Generator
from onnx import TensorProto, ValueInfoProto, helper

from .draft import Drawn

STEPS = 2
"""Of a Loop; each takes what the one before was fed."""


def inside(drawn: Drawn, rng: Generator) -> Drawn:
    """Return a model whose only node has the graph inside; its weights lie there, or outside."""
    holds = bool(rng.integers(2))
    return (_branch if rng.integers(2) else _loop)(drawn, holds)


def _branch(drawn: Drawn, holds: bool) -> Drawn:
    """Return an If with the graph in both branches, and feeds that take one and the other."""
    graph = drawn.model.graph
    branches = {
        f"{name}_branch": _body(name, graph.node, [], graph.output, graph, holds)
        for name in ("then", "else")
    }
    made = [f"{value.name}_out" for value in graph.output]
    node = helper.make_node("If", ["fuzz_if"], made, **branches)
    condition = helper.make_tensor_value_info("fuzz_if", TensorProto.BOOL, [])
    feeds = tuple({**fed, "fuzz_if": np.array(k % 2 == 0)} for k, fed in enumerate(drawn.feeds))
    return Drawn(_model(drawn, node, [*graph.input, condition], made, holds), feeds)


def _loop(drawn: Drawn, holds: bool) -> Drawn:
    """Return a Loop with the graph in it, which collects the outputs."""
    graph = drawn.model.graph
    kept = [*graph.node, helper.make_node("Identity", ["fuzz_go"], ["fuzz_on"])]
    kept += [helper.make_node("Identity", [v.name], [f"{v.name}_next"]) for v in graph.input]
    carried = [f"{value.name}_next" for value in graph.input]
    given = [
        helper.make_tensor_value_info("fuzz_step", TensorProto.INT64, []),
        helper.make_tensor_value_info("fuzz_go", TensorProto.BOOL, []),
        *graph.input,
    ]
    results = [ValueInfoProto(name=name) for name in ("fuzz_on", *carried)]
    body = _body("step", kept, given, [*results, *graph.output], graph, holds)
    fed = [_renamed(value, f"{value.name}_fed") for value in graph.input]
    made = [f"{value.name}_last" for value in (*graph.input, *graph.output)]
    names = ["fuzz_steps", "", *(value.name for value in fed)]
    model = _model(drawn, helper.make_node("Loop", names, made, body=body), fed, made, holds)
    model.graph.initializer.append(
        helper.make_tensor("fuzz_steps", TensorProto.INT64, [], [STEPS])
    )
    feeds = ({f"{name}_fed": array for name, array in run.items()} for run in drawn.feeds)
    return Drawn(model, tuple(feeds))


def _body(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    graph: onnx.GraphProto,
    holds: bool,
) -> onnx.GraphProto:
    weights = list(graph.initializer) if holds else []
    return helper.make_graph(list(nodes), name, list(inputs), list(outputs), weights)


def _renamed(value: ValueInfoProto, name: str) -> ValueInfoProto:
    return ValueInfoProto(name=name, type=value.type)


def _model(
    drawn: Drawn,
    node: onnx.NodeProto,
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[str],
    holds: bool,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "fuzz",
        list(inputs),
        [ValueInfoProto(name=name) for name in outputs],
        [] if holds else list(drawn.model.graph.initializer),
    )
    return helper.make_model(
        graph, opset_imports=drawn.model.opset_import, ir_version=drawn.model.ir_version
    )
