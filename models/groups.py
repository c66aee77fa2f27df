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
        ranks = list(attributes["groups"])
        width = attributes.get("group_size", len(ranks))
        if width < 1 or len(ranks) % width:
            raise ModelError(f"expected groups of group_size ranks, got {ranks!r} and {width!r}")
        return [ranks[k : k + width] for k in range(0, len(ranks), width)]
    if "axis_name" not in attributes:
        return [list(range(size))]
    name = attributes["axis_name"]
    if mesh is None or name not in mesh.axes:
        known = "no rankwise.mesh in its metadata" if mesh is None else f"the mesh {mesh}"
        raise ModelError(f"expected axis_name to be an axis of a mesh, got {name!r} and {known}")
    if mesh.size != size:
        raise ModelError(f"the mesh {mesh} is of {mesh.size} ranks, but there are {size}")
    grid = np.arange(size).reshape(tuple(mesh.axes.values()))
    rows = np.moveaxis(grid, list(mesh.axes).index(name), -1).reshape(-1, mesh.axes[name])
    return rows.tolist()
