"""What a model that communicates says of its communication: operators, ranks, bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TypeProto, helper

from .calls import inlined
from .dialects import ort_distributed
from .dialects.recognition import is_foreign
from .dialects.translation import translated
from .graph import mesh_of
from .known import inferred
from .nodes import subgraphs
from .opset import OPS, is_ours, tensor_type
from .table import aligned


@dataclass(frozen=True)
class Row:
    """The nodes of one operator."""

    name: str
    count: int
    """of nodes; in a Loop or a Scan each may run many times"""
    inside: int
    """how many of them stand in bodies of others"""
    bytes: int
    """of the tensors that a rank hands to them, or that Recv gives, each counted once"""
    unknown: int
    """how many nodes have tensors whose size only a run knows, and which `bytes` lacks"""


@dataclass(frozen=True)
class Communications:
    """A model that is a program of several ranks."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    mesh: str
    """ "" where the model states none"""
    operators: tuple[Row, ...]

    def __str__(self) -> str:
        rows: list[tuple[object, ...]] = [("operator", "nodes", "in bodies", "bytes")]
        rows += [(row.name, row.count, row.inside, _bytes(row)) for row in self.operators]
        return "\n".join(
            [
                f"inputs          {', '.join(self.inputs)}",
                f"outputs         {', '.join(self.outputs)}",
                *([f"mesh            {self.mesh}"] if self.mesh else []),
                f"communications  {sum(row.count for row in self.operators)}",
                *(["", aligned(rows)] if self.operators else []),
            ]
        )


def _bytes(row: Row) -> str:
    if row.unknown == row.count:
        return "unknown"
    return f"{row.bytes:,}" + (f", {row.unknown} unknown" if row.unknown else "")


def communications(model: ModelProto) -> Communications:
    """List what a model communicates, as ours where it says it in another system's operators.

    Functions are looked into; Distributed operators, which may communicate, are listed as they
    are. Raises ModelError.
    """
    mesh = mesh_of(model)
    if not ort_distributed.speaks(model):
        model = translated(model)
    model = inferred(inlined(model))
    found = dict[str, Row]()
    weights = {tensor.name for tensor in model.graph.initializer}
    for node, inside, size in _listed(model.graph, {}, False):
        row = found.get(node.op_type, Row(node.op_type, 0, 0, 0, 0))
        found[row.name] = Row(
            row.name,
            row.count + 1,
            row.inside + inside,
            row.bytes + (size or 0),
            row.unknown + (size is None),
        )
    return Communications(
        inputs=tuple(value.name for value in model.graph.input if value.name not in weights),
        outputs=tuple(value.name for value in model.graph.output),
        mesh="" if mesh is None else str(mesh),
        operators=tuple(found.values()),
    )


def _listed(
    graph: GraphProto, outside: dict[str, TypeProto], inside: bool
) -> Iterator[tuple[NodeProto, bool, int | None]]:
    """Yield the nodes that communicate, whether in a body, and the bytes of their tensor."""
    types = dict(outside)
    types |= {v.name: v.type for v in (*graph.value_info, *graph.input, *graph.output)}
    for weight in graph.initializer:
        types[weight.name] = helper.make_tensor_type_proto(weight.data_type, weight.dims)
    for node in graph.node:
        if _is_one(node):
            yield node, inside, _size(node, types)
        for body in subgraphs(node):
            yield from _listed(body, types, True)


def _is_one(node: NodeProto) -> bool:
    if is_ours(node):
        return node.op_type not in OPS or OPS[node.op_type].is_effect
    return is_foreign(node) or ort_distributed.is_distributed(node)


def _size(node: NodeProto, types: dict[str, TypeProto]) -> int | None:
    """Return the bytes of the tensor that a node takes or, where it takes none, gives."""
    if is_ours(node) and node.op_type == "Barrier":
        return 0
    given = node.output if node.op_type in ("Recv", "ParallelFor") else node.input
    names = [name for name in given[:1] if name] or node.output[:1]
    kind, dims = tensor_type(types.get(names[0]) if names else None)
    if kind is None or dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    elements = math.prod(dim for dim in dims if isinstance(dim, int))
    return elements * helper.tensor_dtype_to_np_dtype(kind).itemsize
