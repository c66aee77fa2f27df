"""The ranks that take part in a communication node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import ModelError
from .mesh import Mesh


def members(
    attributes: Mapping[str, Any], mesh: Mesh | None, rank: int, size: int
) -> tuple[int, ...]:
    """Return the ranks of the group that `rank` is in, in group order.

    Raises ModelError for groups that do not fit, an axis that the mesh lacks, and a rank in no
    group.
    """
    for row in _rows(attributes, mesh, size):
        if rank in row:
            if len(set(row)) < len(row) or not all(0 <= member < size for member in row):
                raise ModelError(f"expected groups of different ranks below {size}, got {row!r}")
            return tuple(row)
    raise ModelError(f"rank {rank} is in none of the groups {list(attributes['groups'])!r}")


def _rows(attributes: Mapping[str, Any], mesh: Mesh | None, size: int) -> list[list[int]]:
    """Return the ranks of every group."""
    if "groups" in attributes:
        return _listed(attributes)
    if "group_size" in attributes:
        raise ModelError(
            f"expected groups beside group_size, which says how long each is, got "
            f"group_size {attributes['group_size']} alone"
        )
    if "axis_name" not in attributes:
        return [list(range(size))]
    name = attributes["axis_name"]
    if mesh is None or name not in mesh.axes:
        known = "no rankwise.mesh in its metadata" if mesh is None else f"the mesh {mesh}"
        raise ModelError(f"expected axis_name to be an axis of a mesh, got {name!r} and {known}")
    if mesh.size != size:
        raise ModelError(f"the mesh {mesh} is of {mesh.size} ranks, but there are {size}")
    return rows(mesh, name)


def _listed(attributes: Mapping[str, Any]) -> list[list[int]]:
    """Return the groups that are listed one after another."""
    ranks = list(attributes["groups"])
    width = attributes.get("group_size", len(ranks))
    if "axis_name" in attributes:
        raise ModelError(
            f"expected groups or axis_name, got {ranks!r} and {attributes['axis_name']!r}"
        )
    if width < 1 or len(ranks) % width:
        raise ModelError(f"expected groups of group_size ranks, got {ranks!r} and {width!r}")
    listed = [ranks[k : k + width] for k in range(0, len(ranks), width)]
    if len(listed) > 1 and len(set(ranks)) < len(ranks):
        raise ModelError(f"expected groups without a rank in common, got {listed!r}")
    return listed


def rows(mesh: Mesh, axis: str) -> list[list[int]]:
    """Return the ranks that differ in one axis of a mesh alone, group by group.

    >>> rows(Mesh(pp=2, tp=2), "pp")
    [[0, 2], [1, 3]]
    """
    grid = np.arange(mesh.size).reshape(tuple(mesh.axes.values()))
    found = np.moveaxis(grid, list(mesh.axes).index(axis), -1).reshape(-1, mesh.axes[axis])
    return [list(map(int, row)) for row in found]
