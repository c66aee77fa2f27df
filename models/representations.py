"""One program for several ranks, in each of the forms that it can have.

parallel-for  one model; a ParallelFor gives each rank an id, and all ranks the results
spmd          one model that every rank runs, and asks Rank() and Size() who it is
explicit      the same, with rank and size as inputs of the graph
per-rank      a model for each rank, in which rank and size are numbers

Each is made of those before it, and spmd of explicit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnx import ModelProto, NodeProto, TensorProto, helper

from .calls import inlined
from .dialects import ort_distributed
from .effects import is_effect, place_of
from .errors import MeshError, ModelError
from .graph import mesh_of
from .groups import members
from .imports import with_imports
from .known import integers, types
from .mesh import Mesh
from .nodes import attribute, every_node, label, replace_nodes, rewrite
from .opset import DOMAIN, GROUP, OPS, VERSION, attributes, is_ours, tensor_type
from .plan import check_whole, sealed
from .tokens import ordered
from .unrolling import Unroller, ours

ASKED = {"Rank": "rank", "Size": "size"}
"""Operators, and the inputs that an explicit model has in their place."""

Change = Callable[[NodeProto], Iterable[NodeProto]]


def spmd(model: ModelProto, ranks: int | None = None) -> ModelProto:
    """Return a model whose ranks ask who they are, of one with a ParallelFor or an explicit one.

    A ParallelFor has to have an id for each rank of its group. Raises ModelError for another
    count, or one that is not known.
    """
    check_whole(model)
    made = _own(model)
    asked = [value for value in made.graph.input if value.name in ASKED.values()]
    if len(asked) == len(ASKED) and not any(map(_asks, every_node(made))):
        for value in asked:
            made.graph.input.remove(value)
        asking = [ours(op, [], [name], name) for op, name in ASKED.items()]
        replace_nodes(made.graph, [*asking, *made.graph.node])
        if all(entry.domain != DOMAIN for entry in made.opset_import):
            made.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    sizes = {node.output[0] for node in made.graph.node if _is_size_of_all(node)}
    unroller = Unroller(integers(made), sizes, ranks)
    rewrite(made.graph, unroller.unrolled)
    return sealed(made)


def explicit(model: ModelProto) -> ModelProto:
    """Return a model that takes rank and size as inputs, of one that asks for them.

    Raises ModelError for the rank within a group, and where values have the names of the inputs.
    """
    check_whole(model)
    made = _own(model)
    taken = {value.name for value in (*made.graph.input, *made.graph.initializer)}
    taken |= {name for node in every_node(made) if not _asks(node) for name in node.output}
    if clash := taken.intersection(ASKED.values()):
        raise ModelError(
            f"expected no value named {min(clash)!r}, which is to be an input; rename it"
        )
    rewrite(made.graph, _as_input)
    for name in ASKED.values():
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, []))
    return sealed(made)


def per_rank(model: ModelProto, ranks: int | None = None) -> list[ModelProto]:
    """Return the models of all ranks, of one that they all run.

    Operands that only the root gives are left out elsewhere; onnxruntime's Distributed operators,
    of which each rank does another part, become local ones and communication. Raises ModelError
    where the number of ranks is not known, and MeshError where it is not that of the mesh.
    """
    mesh = mesh_of(model)
    size = ranks if mesh is None else mesh.size
    if size is None:
        raise ModelError("expected --ranks with the number of ranks, which the model does not say")
    if ranks not in (None, size):
        raise MeshError(f"the model is made for the mesh {mesh}, of {size} ranks, not {ranks}")
    mesh = mesh or Mesh(tp=size)
    if ort_distributed.speaks(model):
        parts = [ort_distributed.lowered(model, rank, size) for rank in range(size)]
        return [sealed(_made_for(part, mesh, rank)) for rank, part in enumerate(parts)]
    whole = spmd(model, size)
    return [_of_rank(whole, mesh, rank) for rank in range(size)]


def _made_for(model: ModelProto, mesh: Mesh, rank: int) -> ModelProto:
    """Return a model that says which rank it is for, and imports what it uses."""
    made = with_imports(model)
    metadata = {entry.key: entry.value for entry in made.metadata_props}
    own = {"rankwise.mesh": str(mesh), "rankwise.rank": str(rank)}
    helper.set_model_props(made, metadata | own)
    return made


def _of_rank(whole: ModelProto, mesh: Mesh, rank: int) -> ModelProto:
    made, known = _own(whole), types(whole)

    def folded(node: NodeProto) -> list[NodeProto]:
        if not is_ours(node) or node.op_type not in OPS:
            return [node]
        values = attributes(node)
        group = members(values, mesh, rank, mesh.size)
        if node.op_type in ASKED:
            number = group.index(rank) if node.op_type == "Rank" else len(group)
            return [_constant(number, node.output[0], node.name)]
        if not 0 <= values.get("root", 0) < len(group):
            raise ModelError(
                f"{label(node)}: expected root to be a rank below {len(group)}, "
                f"got {values['root']}"
            )
        kind = tensor_type(known.get(node.input[0]))[0] if node.input else None
        if OPS[node.op_type].operand == "optional" and kind and group[values["root"]] != rank:
            node.input[0] = ""
            if attribute(node, "dtype") is None:
                node.attribute.append(helper.make_attribute("dtype", kind))
        return [node]

    rewrite(made.graph, folded)
    return sealed(_made_for(made, mesh, rank))


def _own(model: ModelProto) -> ModelProto:
    """Return a copy without functions that communicate, and without stated numbers."""
    made = ModelProto()
    made.CopyFrom(model)
    if any(is_ours(node) for node in every_node(made)):
        made = inlined(made)
    if any(place_of(node) is not None for node in every_node(made) if is_effect(node)):
        made = ordered(made, "plain")
    return made


def _asks(node: NodeProto) -> bool:
    return is_ours(node) and node.op_type in ASKED


def _is_size_of_all(node: NodeProto) -> bool:
    return _asks(node) and node.op_type == "Size" and not set(GROUP) & attributes(node).keys()


def _as_input(node: NodeProto) -> list[NodeProto]:
    if not _asks(node):
        return [node]
    if any(name in attributes(node) for name in GROUP):
        raise ModelError(f"{label(node)} is within a group, and an input is among all ranks")
    source = ASKED[node.op_type]
    if node.output[0] == source:
        return []
    return [helper.make_node("Identity", [source], [node.output[0]], node.name)]


def _constant(value: int, name: str, node_name: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], node_name, value_int=value)
