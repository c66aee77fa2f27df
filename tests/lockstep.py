"""Runs the graphs of all ranks side by side in one process, with onnx's reference operators.

Independent of onnxruntime, of MPI and of our own plans: node k of every rank runs before node
k + 1 of any, so that a collective is a line of numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ranks
from case import Case
from comparison import assert_same
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rankwise.models.sharding.write import Sharding

Values = dict[str, Any]
COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}


def load(directory: Path) -> list[onnx.ModelProto]:
    """Load the models of a sharded directory, in rank order."""
    paths = directory.glob("rank*.onnx")
    return [onnx.load(path) for path in sorted(paths, key=lambda path: int(path.stem[4:]))]


def written(sharding: Sharding, directory: Path) -> list[onnx.ModelProto]:
    """Write the graphs of all ranks, and load them again."""
    ranks.write(sharding, directory)
    return load(directory)


def assert_all_same(models: Sequence[onnx.ModelProto], case: Case) -> None:
    """Compare the outputs of every rank with those of onnxruntime on the whole graph."""
    expected = ranks.whole(case.model, case.feeds)
    for outputs in run(models, case.feeds):
        assert_same(outputs, expected)


def run(models: Sequence[onnx.ModelProto], feeds: Mapping[str, Any]) -> list[list[Any]]:
    """Return the outputs of every rank."""
    everyone: list[Values] = [{"": None, **feeds} for _ in models]
    for model, values in zip(models, everyone, strict=True):
        values |= {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for nodes in zip(*(model.graph.node for model in models), strict=True):
        assert len({(node.domain, node.op_type) for node in nodes}) == 1
        if nodes[0].domain == "rankwise":
            _communicate(nodes, everyone)
        else:
            for model, node, values in zip(models, nodes, everyone, strict=True):
                _compute(model, node, values)
    return [
        [values[out.name] for out in model.graph.output]
        for model, values in zip(models, everyone, strict=True)
    ]


def _compute(model: onnx.ModelProto, node: onnx.NodeProto, values: Values) -> None:
    names = [name for name in node.input if name]
    graph = helper.make_graph(
        [node],
        "node",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names)],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    one = helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)
    made = ReferenceEvaluator(one).run(None, {name: values[name] for name in names})
    values |= dict(zip([name for name in node.output if name], made, strict=True))


def _communicate(nodes: Sequence[onnx.NodeProto], everyone: Sequence[Values]) -> None:
    given = [values[node.input[0]] for node, values in zip(nodes, everyone, strict=True)]
    assert len({part.dtype for part in given}) == 1
    options, *others = (
        {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        for node in nodes
    )
    assert all(other == options for other in others)
    dim = options.get("dim", 0)
    if nodes[0].op_type == "AllGather":
        results = [np.concatenate(given, axis=dim)] * len(nodes)
    else:
        assert len({part.shape for part in given}) == 1  # numpy would broadcast
        combine = COMBINE[options.get("op", b"sum").decode()]
        result = given[0]
        for part in given[1:]:
            result = combine(result, part)
        is_scattered = nodes[0].op_type == "ReduceScatter"
        assert is_scattered or nodes[0].op_type == "AllReduce"
        parts = np.array_split(result, len(nodes), dim) if is_scattered else []
        results = parts or [result] * len(nodes)
    for node, values, made in zip(nodes, everyone, results, strict=True):
        values[node.output[0]] = made
