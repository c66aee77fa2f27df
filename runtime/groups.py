"""The communicators of the groups that take part in communication nodes."""

from __future__ import annotations

from typing import NamedTuple

from ..collectives import Communicator
from ..models.errors import ModelError
from ..models.groups import members
from ..models.mesh import Mesh
from ..models.plan import Communicate, ParallelFor


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
