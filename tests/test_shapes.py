"""Shapes found node by node, against what onnxruntime makes."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from operators import OPERATORS

from rankwise.models.graph import load
from rankwise.models.shapes import infer, symbols


@pytest.mark.parametrize("name", graphs.CASES)
def test_every_tensor_has_the_shape_that_it_has_in_a_run(name: str) -> None:
    case = graphs.CASES[name]
    graph = load(case.model)
    sizes = {
        dim.dim_param: case.feeds[value.name].shape[k]
        for value in graph.inputs
        for k, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.dim_param
    }
    found = infer(graph, sizes)
    names = [out for node in graph.nodes for out in node.output]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for name, made in zip(names, session.run(None, case.feeds), strict=True):
        assert found.shapes[name] == made.shape, name
        assert onnx.helper.tensor_dtype_to_np_dtype(found.types[name]) == made.dtype
        if name in found.values and not case.feeds.keys() & {name}:
            np.testing.assert_array_equal(found.values[name], made)


UNKNOWN = "Resize to computed sizes"
"""a case of which no more can be known before it runs"""


@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_makes_has_the_shape_that_it_has_in_a_run(name: str) -> None:
    case = OPERATORS[name]
    sizes = {
        dim.dim_param: length
        for value in case.model.graph.input
        for dim, length in zip(
            value.type.tensor_type.shape.dim, case.feeds[value.name].shape, strict=True
        )
        if dim.dim_param
    }
    found = infer(load(case.model), sizes)
    session = onnxruntime.InferenceSession(case.model.SerializeToString())
    made = session.run(None, case.feeds)
    for value, array in zip(case.model.graph.output, made, strict=True):
        if name != UNKNOWN:
            assert found.shapes[value.name] == array.shape


def test_dims_without_a_name_are_told_apart() -> None:
    model = graphs.build("(float[b,4] x) => (float[b,4] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    assert symbols(load(model)) == ["x.0"]


def test_an_operator_with_inputs_that_it_refuses_leaves_what_follows_unknown() -> None:
    model = graphs.build("(float[b,4] x) => (float[b,4] y) { y = Add(x, w) }", w=np.ones(4))
    assert "y" not in infer(load(model), {"b": 3}).types


def test_an_unknown_operator_leaves_what_follows_unknown() -> None:
    model = graphs.build("(float[b,4] x) => (float[b,4] y) { h = Relu(x) \n y = Neg(h) }")
    model.graph.node[0].domain = "elsewhere"
    found = infer(load(model), {"b": 3})
    assert "h" not in found.shapes
    assert "y" not in found.shapes
