"""The ranks that take part in a communication node, and the communicators of such groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..collectives import Communicator
from ..models.errors import ModelError
from ..models.mesh import Mesh
from ..models.plan import Communicate, ParallelFor


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


class Group(NamedTuple):
    """A communicator, and the ranks of the whole that it is of."""

    comm: Communicator
    ranks: tuple[int, ...]


class Groups:
    """The communicators of the groups of a plan; that of all ranks is the one it was given."""

    def __init__(self, comm: Communicator, mesh: Mesh | None) -> None:
        self._comm, self._mesh = comm, mesh
        self.rank = comm.rank
        self._made: dict[tuple[int, ...], Communicator] = {tuple(range(comm.size)): comm}

    def of(self, step: Communicate | ParallelFor) -> Communicator:
        """Return the communicator of a node's group; the first call for a group is collective.

        Raises ModelError.
        """
        return self.group(step).comm

    def group(self, step: Communicate | ParallelFor) -> Group:
        """Return the group of a node, as `of` does."""
        try:
            ranks = members(step.attributes, self._mesh, self._comm.rank, self._comm.size)
        except ModelError as error:
            raise ModelError(f"{step.label}: {error}") from None
        if ranks not in self._made:
            group = self._comm.group(ranks)
            assert group is not None  # members() has put this rank into it
            self._made[ranks] = group
        return Group(self._made[ranks], ranks)

    def free(self) -> None:
        """Free all of them; collective."""
        for group in reversed(self._made.values()):
            group.free()
