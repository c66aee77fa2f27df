"""A collective algorithm as a value: what one rank sends and receives, round by round.

An algorithm is a function of (rank, size), and root where the collective has one, that yields
rounds. It knows no MPI, no numpy and no bytes: blocks are indices, to which the executor, the
simulator, the cost model and the printer each give a meaning of their own.

What an algorithm takes beside that it takes by keyword, with a default: `segments`, the number of
parts of each block, `nodes`, the node of each rank, and `radix`, the width of a tree. Everything
below passes these on as **options.

Blocks are numbered 0 to n - 1 as the collective says (specs.py). With segments > 1, segment j of
block b has the number b * segments + j. Numbers from n (or n * segments) on are *spare*: scratch
memory of the rank, empty at first; spare number n + i is as long as i.

The rules of a round:
- Its steps are posted together and completed together; the rounds of one rank follow one another.
- A Send, and the source of a Copy or a Load, is the block as it was at the round's start.
- A block that is sent or copied from must not be overwritten in that round, by a Copy, a Load or a
  Recv that does not reduce. Reducing into it is legal: that waits until the sends are complete.
- A block that any rank loads must not be written in that round at all.
- What reduces into one block does so in the order of the steps.
- Between two ranks messages arrive in the order in which they were sent.
- Every rank yields the same number of rounds; an idle one yields ().
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

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


class Load(NamedTuple):
    """A read of the peer's blocks in memory that both share, stored or reduced as by a Recv.

    It goes into the same blocks here, or into as many others. A rank may load from itself, with
    and without shared memory: so it reduces blocks of its own.
    """

    peer: int
    blocks: Blocks
    reduce: Side | None = None
    into: Blocks | None = None

    @property
    def dest(self) -> Blocks:
        return self.blocks if self.into is None else self.into


Step = Send | Recv | Copy | Load
Round = tuple[Step, ...]
Algorithm = Callable[..., Iterator[Round]]


@functools.lru_cache(maxsize=512)
def rounds(
    algorithm: Algorithm, rank: int, size: int, root: int | None = None, **options: Any
) -> tuple[Round, ...]:
    """The rounds of one rank. `root` is None for a collective without one."""
    roots = () if root is None else (root,)
    return tuple(algorithm(rank, size, *roots, **options))


def schedule(
    algorithm: Algorithm, size: int, root: int | None = None, **options: Any
) -> list[tuple[Round, ...]]:
    """The rounds of every rank: schedule(...)[rank][round]."""
    return [rounds(algorithm, rank, size, root, **options) for rank in range(size)]
