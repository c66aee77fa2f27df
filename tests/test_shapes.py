"""Shapes found node by node, against what onnxruntime makes."""

from __future__ import annotations

import contrib_graphs
import graphs
import numpy as np
import onnx
import pytest
import ranks
from case import Case, copied
from operators import OPERATORS

from rankwise.models.graph import load
from rankwise.models.shapes import infer, symbols

CASES = graphs.CASES | contrib_graphs.CASES


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_has_the_shape_that_it_has_in_a_run(name: str) -> None:
    case = CASES[name]
    graph = load(case.model)
    found = infer(graph, case.sizes)
    written = {name for node in case.model.graph.node for name in node.output} - {""}
    names = [out for node in graph.nodes for out in node.output if out in written]
    assert names
    model = copied(case.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    made = ranks.whole(model, case.feeds, is_optimised=False)
    for name, array in zip(names, made, strict=True):
        assert found.shapes[name] == array.shape, name
        assert onnx.helper.tensor_dtype_to_np_dtype(found.types[name]) == array.dtype, name
        if name in found.values and not case.feeds.keys() & {name}:
            np.testing.assert_array_equal(found.values[name], array)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_makes_has_the_shape_that_it_has_in_a_run(name: str) -> None:
    case = Case(OPERATORS[name].model, OPERATORS[name].feeds)
    found = infer(load(case.model), case.sizes)
    for value, array in zip(case.model.graph.output, ranks.whole(*case), strict=True):
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
