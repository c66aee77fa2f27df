"""Models in another dialect, rewritten so that all communication is of domain rankwise."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from ..calls import inlined
from ..imports import with_imports
from ..meshes import with_lists
from ..nodes import rewrite, subgraphs
from ..opset import is_ours
from .reading import Reader
from .recognition import is_foreign, speaks


def translated(model: ModelProto, ranks: int | None = None) -> ModelProto:
    """Return a model whose communication is all of domain rankwise; itself, where it is already.

    Axes of named meshes are written out, so that a node says all of its group. `ranks` is how many
    there will be, if that is known. Raises ModelError for a node that cannot be said in ours.
    """
    model = with_lists(model)
    functions = {(function.domain, function.name) for function in model.functions}
    bodies: list[Iterable[NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    if not any(speaks(node, functions) for body in bodies for node in body):
        return model
    known = with_imports(resolved(model))
    made = ModelProto()
    made.CopyFrom(known)
    reader = Reader(known, ranks)
    for holder in (made.graph, *made.functions):
        rewrite(holder, reader.read)
    return made


def resolved(model: ModelProto) -> ModelProto:
    """Return a model without functions, if one communicates by attributes that its calls give."""
    for function in model.functions:
        if any(_refers(node) for node in function.node):
            return inlined(model)
    return model


def _refers(node: NodeProto) -> bool:
    is_one = (is_ours(node) or is_foreign(node)) and any(e.ref_attr_name for e in node.attribute)
    return is_one or any(_refers(inner) for body in subgraphs(node) for inner in body.node)
