"""What each collective promises, as a condition before and one after.

A block holds a *value*: the sequence of its operands (rank, block), in the order in which they
were combined. `before` and `after` give the value that block b of rank r has or must have; None is
a block that holds nothing, or that may hold anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Atom = tuple[int, int]
Value = tuple[Atom, ...]
Condition = Callable[[int, int, int, int], Value | None]  # of (rank, block, size, root)


class Spec(NamedTuple):
    """One collective. `copies` is the number of blocks for each rank in its buffer."""

    before: Condition
    after: Condition
    rooted: bool = False
    reduces: bool = False
    copies: int = 1

    def segmented(self, segments: int) -> Spec:
        """The same for every segment of a block: segment j of block b is b * segments + j."""
        if segments == 1:
            return self
        return self._replace(
            before=of_segment(self.before, segments),
            after=of_segment(self.after, segments),
            copies=self.copies * segments,
        )


def of_segment(condition: Condition, segments: int) -> Condition:
    """What a condition on blocks says of their segments."""

    def segment(r: int, b: int, size: int, root: int) -> Value | None:
        block, j = divmod(b, segments)
        value = condition(r, block, size, root)
        return None if value is None else tuple((i, c * segments + j) for i, c in value)

    return segment


def mine(r: int, b: int, size: int, root: int) -> Value | None:
    """Every block is this rank's operand."""
    return ((r, b),)


def own(r: int, b: int, size: int, root: int) -> Value | None:
    """Block r of rank r, and nothing else."""
    return ((r, r),) if r == b else None


def own_of_all(r: int, b: int, size: int, root: int) -> Value | None:
    """Block b as rank b had it."""
    return ((b, b),)


def of_root(r: int, b: int, size: int, root: int) -> Value | None:
    """The root's vector, here."""
    return ((root, b),)


def reduced(r: int, b: int, size: int, root: int) -> Value | None:
    """The operands of all ranks, in their order."""
    return tuple((i, b) for i in range(size))


def to_send(r: int, b: int, size: int, root: int) -> Value | None:
    """Blocks 0 .. p-1 are for the ranks; p .. 2p-1 wait for what they send."""
    return ((r, b),) if b < size else None


def received(r: int, b: int, size: int, root: int) -> Value | None:
    """Block p + i is what rank i had for rank r."""
    return ((b - size, r),) if b >= size else None


def at_root(condition: Condition) -> Condition:
    """A condition on the root's blocks only."""
    return lambda r, b, size, root: condition(r, b, size, root) if r == root else None


def at_owner(condition: Condition) -> Condition:
    """A condition on block r of each rank r only."""
    return lambda r, b, size, root: condition(r, b, size, root) if r == b else None


SPECS: dict[str, Spec] = {
    "allreduce": Spec(mine, reduced, reduces=True),
    "reduce_scatter": Spec(mine, at_owner(reduced), reduces=True),
    "allgather": Spec(own, own_of_all),
    "broadcast": Spec(at_root(of_root), of_root, rooted=True),
    "reduce": Spec(mine, at_root(reduced), rooted=True, reduces=True),
    "scatter": Spec(at_root(of_root), at_owner(of_root), rooted=True),
    "gather": Spec(own, at_root(own_of_all), rooted=True),
    "alltoall": Spec(to_send, received, copies=2),
    # Everyone has heard of everyone: an allgather of the fact of having arrived.
    "barrier": Spec(own, own_of_all),
}
