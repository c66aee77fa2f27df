"""A collective algorithm as a value: what one rank sends and receives, round by round.

An algorithm is a function of (rank, size), and root where the collective has one, that yields
rounds. It knows no MPI, no numpy and no bytes: blocks are indices, to which the executor, the
simulator, the cost model and the printer each give a meaning of their own.

The rules of a round:
- Its steps are posted together and completed together; the rounds of one rank follow one another.
- A Send, and the source of a Copy, is the block as it was at the round's start.
- A block that is sent or copied from must not be overwritten in that round, by a Copy or a Recv
  that does not reduce. Reducing into it is legal: that waits until the sends are complete.
- Between two ranks messages arrive in the order in which they were sent.
- Every rank yields the same number of rounds; an idle one yields ().
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

Blocks = tuple[int, ...]
Side = Literal["left", "right"]


class Send(NamedTuple):
    """One message to `peer`: the blocks, one after another."""

    peer: int
    blocks: Blocks


class Recv(NamedTuple):
    """One message from `peer`, stored into the blocks or reduced with them.

    `reduce` says on which side of the operation the received operand stands: "left" when it comes
    from lower ranks, so that block = op(received, block); "right" is block = op(block, received).
    """

    peer: int
    blocks: Blocks
    reduce: Side | None = None


class Copy(NamedTuple):
    """A permutation inside the rank: source blocks to as many other blocks."""

    source: Blocks
    dest: Blocks


Step = Send | Recv | Copy
Round = tuple[Step, ...]
Algorithm = Callable[..., Iterator[Round]]


@functools.lru_cache(maxsize=512)
def rounds(
    algorithm: Algorithm, rank: int, size: int, root: int | None = None
) -> tuple[Round, ...]:
    """The rounds of one rank. `root` is None for a collective without one."""
    return tuple(algorithm(rank, size) if root is None else algorithm(rank, size, root))


def schedule(algorithm: Algorithm, size: int, root: int | None = None) -> list[tuple[Round, ...]]:
    """The rounds of every rank: schedule(...)[rank][round]."""
    return [rounds(algorithm, rank, size, root) for rank in range(size)]
