"""Several meshes in one model: one without a name, and others that have names.

metadata_props["rankwise.mesh"] is the mesh of an axis_name such as "tp". A model can lay its ranks
out in other ways too: metadata_props["rankwise.mesh.rows"] = "pp=2,tp=2" gives the axes "rows.pp"
and "rows.tp". These are written out as lists of ranks when the model is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, helper

from .errors import ModelError
from .groups import rows
from .mesh import Mesh
from .nodes import attribute, every_node, label
from .opset import is_ours

PREFIX = "rankwise.mesh."


def named(model: ModelProto) -> dict[str, Mesh]:
    """Return the meshes of a model that have names. Raises MeshError."""
    return {
        entry.key.removeprefix(PREFIX): Mesh.parse(entry.value)
        for entry in model.metadata_props
        if entry.key.startswith(PREFIX)
    }


def with_lists(model: ModelProto) -> ModelProto:
    """Return a model whose axes of named meshes are lists of ranks; itself, where it has none.

    Raises ModelError for an axis that a mesh lacks, MeshError for a mesh that cannot be read.
    """
    meshes = named(model)
    if not meshes or not any(map(_names_a_mesh, every_node(model))):
        return model
    made = ModelProto()
    made.CopyFrom(model)
    for node in filter(_names_a_mesh, every_node(made)):
        _list(node, meshes)
    return made


def _names_a_mesh(node: NodeProto) -> bool:
    return is_ours(node) and "." in str(attribute(node, "axis_name", ""))


def _list(node: NodeProto, meshes: Mapping[str, Mesh]) -> None:
    """Write the ranks of every group of an axis in its place."""
    name, _, axis = str(attribute(node, "axis_name")).rpartition(".")
    if name not in meshes or axis not in meshes[name].axes:
        known = ", ".join(f"{key} {mesh}" for key, mesh in meshes.items())
        raise ModelError(
            f"{label(node)}: expected an axis of the meshes {known}, got {name}.{axis}"
        )
    found = rows(meshes[name], axis)
    for entry in [entry for entry in node.attribute if entry.name == "axis_name"]:
        node.attribute.remove(entry)
    ranks = [rank for row in found for rank in row]
    own = {"groups": ranks, "group_size": len(found[0])}
    node.attribute.extend(helper.make_attribute(key, value) for key, value in own.items())
