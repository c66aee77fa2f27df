"""The communicators of the groups that take part in communication nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from ..collectives import Communicator
from ..models.errors import ModelError
from ..models.groups import members
from ..models.mesh import Mesh
from ..models.plan import Communicate, ParallelFor, Plan, every_step
from .agreement import Agreement, gathered, together


class Group(NamedTuple):
    """A communicator, and the ranks of the whole that it is of."""

    comm: Communicator
    ranks: tuple[int, ...]


class Groups:
    """The communicators of the groups of a plan; that of all ranks is the one it was given."""

    def __init__(self, comm: Communicator) -> None:
        self._comm, self.rank = comm, comm.rank
        self._mesh: Mesh | None = None
        self._made: dict[tuple[int, ...], Communicator] = {tuple(range(comm.size)): comm}

    def make(self, plan: Plan, mesh: Mesh | None) -> None:
        """Make the communicators of all groups that the plan of any rank names; collective.

        A communicator takes all of its ranks, and nothing ends their wait: so every rank makes
        those of its groups in the same order, whether its own plan names them or not.

        Raises ModelError, on every rank, if on one.
        """
        self._mesh = mesh
        steps = [s for s in every_step(plan) if isinstance(s, Communicate | ParallelFor)]
        mine = together(self._comm, lambda: list(dict.fromkeys(map(self._members, steps))))
        named = {tuple(ranks) for some in gathered(self._comm, mine) for ranks in some}
        for ranks in sorted(named - self._made.keys()):
            if (made := self._comm.group(ranks)) is not None:
                self._made[ranks] = made

    def group(self, step: Communicate | ParallelFor) -> Group:
        """Return the group of a node."""
        ranks = self._members(step)
        return Group(self._made[ranks], ranks)

    def _members(self, step: Communicate | ParallelFor) -> tuple[int, ...]:
        try:
            return members(step.attributes, self._mesh, self._comm.rank, self._comm.size)
        except ModelError as error:
            raise ModelError(f"{step.label}: {error}") from None

    @contextlib.contextmanager
    def freed_if_refused(self) -> Iterator[None]:
        """While it is entered, an error that the ranks agree on frees all of them."""
        try:
            yield
        except Exception as error:
            if isinstance(error.__cause__, Agreement):  # and so every rank is here
                self.free()
            raise

    def free(self) -> None:
        """Free all of them; collective."""
        for group in reversed(self._made.values()):
            group.free()
