"""A plan without what a proof does not look at: so small that ranks can send it to each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ..nodes import copied
from ..plan import Branch, Communicate, Compute, Instruction, Plan
from .values import Tensor, is_small


def slim(plan: Plan, folder: Path | None) -> Plan:
    """Return a plan whose models hold the elements of small tensors only.

    `folder` is where external data lies; that of small tensors is read.
    """
    steps = tuple(_step(step, folder) for step in plan.instructions)
    return replace(plan, model=_model(plan.model, folder), instructions=steps)


def _step(step: Instruction, folder: Path | None) -> Instruction:
    match step:
        case Compute() | Communicate():
            return step
        case Branch():
            bodies = [slim(body, folder) for body in step.bodies]
            return replace(step, then_body=bodies[0], else_body=bodies[1])
        case _:
            return replace(step, body=slim(step.body, folder))


def _model(model: ModelProto, folder: Path | None) -> ModelProto:
    graph = model.graph
    made = ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        metadata_props=model.metadata_props,
    )
    made.graph.node.extend(map(_node, graph.node))
    made.graph.input.extend(graph.input)
    made.graph.initializer.extend(_tensor(tensor, folder) for tensor in graph.initializer)
    for sparse in graph.sparse_initializer:
        added = made.graph.sparse_initializer.add(dims=sparse.dims)
        added.values.CopyFrom(_without_elements(sparse.values))
    return made


def _node(node: NodeProto) -> NodeProto:
    if node.op_type != "Constant" or not any(entry.HasField("t") for entry in node.attribute):
        return node
    made = copied(node)
    for entry in made.attribute:
        entry.t.CopyFrom(_tensor(entry.t, None))
    return made


def _tensor(tensor: TensorProto, folder: Path | None) -> TensorProto:
    if not is_small(Tensor(tensor.data_type, tuple(tensor.dims))):
        return _without_elements(tensor)
    if tensor.data_location != TensorProto.EXTERNAL:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor, str(folder or "")), tensor.name)


def _without_elements(tensor: TensorProto) -> TensorProto:
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
