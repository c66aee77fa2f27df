"""Models from one dialect to another."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto, helper, parser

from ..errors import ModelError
from ..graph import mesh_of
from ..imports import with_imports
from ..known import integers, types
from ..nodes import every_node
from ..opset import DOMAIN
from ..plan import check_whole, sealed
from ..plan.seal import set_seal
from . import DIALECTS
from .dialect import Dialect
from .translation import resolved, translated
from .writing import Writer

OURS = "rankwise"
"""The name of our own dialect, beside those of DIALECTS."""


def converted(model: ModelProto, name: str, ranks: int | None = None) -> ModelProto:
    """Return a model whose communication is in the dialect of that name, whatever it was in.

    `ranks` is how many there will be, where the model does not say. Raises ModelError for a node
    that cannot be said there, and why.
    """
    if name != OURS and name not in DIALECTS:
        raise ValueError(f"expected a dialect of {', '.join((OURS, *DIALECTS))}, got {name!r}")
    mesh = mesh_of(model)
    if mesh is not None and ranks not in (None, mesh.size):
        raise ModelError(
            f"the model is made for the mesh {mesh}, of {mesh.size} ranks, not {ranks}"
        )
    size = mesh.size if mesh is not None else ranks
    check_whole(model)  # what is not would be sealed anew
    made = with_imports(resolved(translated(model, size)))
    if name == OURS:
        return sealed(made)
    set_seal(made, None)
    metadata = {entry.key: entry.value for entry in made.metadata_props}
    rank = int(metadata["rankwise.rank"]) if "rankwise.rank" in metadata else None
    writer = Writer(DIALECTS[name], mesh, rank, size, types(made), integers(made))
    for holder in (made.graph, *made.functions):
        writer.rewrite(holder)
    for holder in (made, *made.functions):
        _import(holder, DIALECTS[name])
    _define(made, DIALECTS[name])
    return made


def _define(model: ModelProto, dialect: Dialect) -> None:
    """Add the functions of a dialect that a model calls."""
    used = {node.op_type for node in every_node(model)} & dialect.functions.keys()
    for name in sorted(used):
        function = parser.parse_function(dialect.functions[name])
        del function.opset_import[:]
        function.opset_import.extend(model.opset_import)
        model.functions.append(function)


def _import(holder: Any, dialect: Dialect) -> None:
    """Import a dialect's domain in place of ours."""
    kept = [entry for entry in holder.opset_import if entry.domain != DOMAIN]
    if all(entry.domain != dialect.domains[0] for entry in kept):
        kept.append(helper.make_opsetid(dialect.domains[0], 1))
    del holder.opset_import[:]
    holder.opset_import.extend(kept)
