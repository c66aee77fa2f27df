"""Shapes of all tensors at given sizes of the symbolic dims, found without running the model.

onnx's own shape inference, asked node by node, is given what it lacks when it sees a whole graph:
plain integers for every symbolic dim, and the values of the small tensors that shapes are computed
from. Those values come from onnx's reference operators. So a Reshape to a target that was put
together from Shape, Slice and Concat has a known shape, and no weight is read for it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TypeProto, ValueInfoProto, defs, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

from . import contrib
from .bodies import bodies
from .body_shapes import OPEN, infer_bodies
from .graph import Graph
from .nodes import RANDOM, copied, subgraphs

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

VALUE_ELEMENTS = 1024
"""Larger tensors are no arithmetic on shapes: their values are not followed."""

ALIKE = {
    "GreaterOrEqual": "Greater",
    "GroupNormalization": "Identity",
    "LessOrEqual": "Less",
    "MeanVarianceNormalization": "Identity",
    "PRelu": "Mul",
}
"""Operators whose schemas may say nothing of shapes, and others that give the same.

Slopes of PRelu may have more dims than what they scale: onnxruntime takes them, ONNX does not.
"""

IMPLIED = {"STFT": {"onesided": 1}}
"""Attributes that schemas take for 0 where they are absent, though their default is another."""

UNFOLLOWED = RANDOM | {"Dropout"}


@dataclass
class Shapes:
    """What is known of each tensor."""

    types: dict[str, int] = field(default_factory=dict)
    """element types"""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """sizes of all dims; a tensor that is absent has an unknown shape"""
    values: dict[str, Array] = field(default_factory=dict)
    """contents of small tensors that do not depend on fed data"""


def symbols(graph: Graph) -> list[str]:
    """Name the symbolic dims of the inputs; a dim without a name is named after its place."""
    names = (name for value in graph.inputs for name in dims(value))
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def dims(value: ValueInfoProto) -> list[int | str]:
    """Return the dims of a value: sizes, and names of the symbolic ones."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{k}"
        for k, dim in enumerate(value.type.tensor_type.shape.dim)
    ]


def infer(graph: Graph, sizes: Mapping[str, int]) -> Shapes:
    """Return the types, shapes and small values of all tensors, symbolic dims having `sizes`.

    OPEN among them is the size of dims that depend on how control flows.
    """
    found = Shapes()
    for value in (*graph.value_info, *graph.inputs):
        _take(found, value.name, _resolved(value, sizes))
    for name, weight in graph.weights.items():
        found.types[name], found.shapes[name] = weight.data_type, weight.shape
        if weight.count <= VALUE_ELEMENTS:
            found.values[name] = weight.read()
    infer_nodes(graph.nodes, graph, found, sizes.get(OPEN, 1))
    return found


def infer_nodes(nodes: Iterable[NodeProto], graph: Graph, found: Shapes, unknown: int = 1) -> None:
    """Note what nodes make, of operators as the graph's opsets have them.

    Dims that depend on how control flows are `unknown`.
    """
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]

    def run(inner: Iterable[NodeProto]) -> None:
        infer_nodes(inner, graph, found, unknown)

    for node in nodes:
        if bodies(node):
            infer_bodies(node, found, unknown, run)
        else:
            _infer_node(node, graph, opsets, found)


def _resolved(value: ValueInfoProto, sizes: Mapping[str, int]) -> TypeProto:
    kind = TypeProto()
    kind.CopyFrom(value.type)
    if kind.tensor_type.HasField("shape"):
        for dim, size in zip(kind.tensor_type.shape.dim, dims(value), strict=True):
            if isinstance(size, str):
                dim.Clear()
                if size in sizes:
                    dim.dim_value = sizes[size]
    return kind


def _take(found: Shapes, name: str, kind: TypeProto) -> None:
    """Note a type, and its shape if all of it is known.

    Of a node in a branch that is never taken, onnx may find negative sizes.
    """
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not name:
        return
    if tensor.elem_type:
        found.types[name] = tensor.elem_type
    if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if min(shape, default=0) >= 0:
            found.shapes[name] = shape


def _type(found: Shapes, name: str) -> TypeProto:
    return helper.make_tensor_type_proto(found.types[name], found.shapes.get(name))


def _infer_node(
    node: NodeProto, graph: Graph, opsets: list[onnx.OperatorSetIdProto], found: Shapes
) -> None:
    if contrib.is_contrib(node):
        _infer_contrib(node, found)
        return
    known = [name for name in _captured(node) if name in found.types]
    try:
        schema, asked = in_question(node, graph.opsets)
        types = {name: _type(found, name) for name in known}
        data = {
            name: numpy_helper.from_array(found.values[name], name)
            for name in known
            if name in found.values
        }
        outputs = infer_node_outputs(schema, asked, types, data, None, opsets, graph.ir_version)
    except (defs.SchemaError, InferenceError, ValidationError, KeyError, ValueError) as error:
        log.debug("no shapes for %s %r: %s", node.op_type, node.name, error)
        return
    for name, kind in outputs.items():
        _take(found, name, kind)
    _follow(node, graph, opsets, found)


def in_question(node: NodeProto, opsets: Mapping[str, int]) -> tuple[defs.OpSchema, NodeProto]:
    """Return the schema to ask what a node makes, and the node that it is asked of.

    Raises SchemaError for an operator that nobody knows.
    """
    schema = defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    if node.op_type not in ALIKE:
        return schema, _spelled_out(node)
    schema = defs.get_schema(ALIKE[node.op_type], opsets.get("", 1))
    return schema, helper.make_node(schema.name, node.input[: schema.max_input], node.output)


def _spelled_out(node: NodeProto) -> NodeProto:
    """Return a node with the defaults that its schema does not know."""
    given = {entry.name for entry in node.attribute}
    absent = {k: v for k, v in IMPLIED.get(node.op_type, {}).items() if k not in given}
    if not absent:
        return node
    asked = copied(node)
    asked.attribute.extend(helper.make_attribute(k, v) for k, v in absent.items())
    return asked


def _infer_contrib(node: NodeProto, found: Shapes) -> None:
    inputs = [
        contrib.Known(found.types[name], found.shapes[name], found.values.get(name))
        if name in found.shapes
        else None
        for name in node.input
    ]
    try:
        made = contrib.made(node, inputs)
    except (LookupError, InferenceError, ValueError) as error:
        log.debug("no shapes for %s %r: %s", node.op_type, node.name, error)
        return
    for name, output in zip(node.output, made, strict=False):
        if name:
            found.types[name], found.shapes[name] = output.data_type, output.shape


def _captured(node: NodeProto) -> list[str]:
    inner = (name for body in subgraphs(node) for n in body.node for name in n.input)
    return list(dict.fromkeys(filter(None, itertools.chain(node.input, inner))))


def _follow(
    node: NodeProto, graph: Graph, opsets: list[onnx.OperatorSetIdProto], found: Shapes
) -> None:
    """Compute a small output from small inputs."""
    (out, *others) = node.output
    if others or node.domain or node.op_type in UNFOLLOWED or any(subgraphs(node)):
        return
    if np.prod(found.shapes.get(out, (VALUE_ELEMENTS + 1,))) > VALUE_ELEMENTS:
        return
    if node.op_type in ("Shape", "Size"):
        if node.input[0] not in found.shapes:
            return
        # The shape is enough; a tensor of that shape costs nothing as long as nobody fills it.
        feeds = {node.input[0]: np.broadcast_to(np.float32(0), found.shapes[node.input[0]])}
    elif all(name in found.values for name in node.input if name):
        feeds = {name: found.values[name] for name in node.input if name}
    else:
        return
    try:
        evaluator = ReferenceEvaluator(_alone(node, opsets, graph.ir_version, found, feeds))
        with np.errstate(all="ignore"):
            found.values[out] = np.asarray(next(iter(evaluator.run(None, feeds))))
    except Exception as error:  # any operator may fail in its own way
        log.debug("no value for %s %r: %s", node.op_type, node.name, error)


def _alone(
    node: NodeProto,
    opsets: list[onnx.OperatorSetIdProto],
    ir_version: int,
    found: Shapes,
    feeds: Mapping[str, Array],
) -> onnx.ModelProto:
    inputs = [
        ValueInfoProto(name=name, type=helper.make_tensor_type_proto(found.types[name], None))
        for name in feeds
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], found.types[node.output[0]], None)]
    graph = helper.make_graph([node], "node", inputs, outputs)
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
