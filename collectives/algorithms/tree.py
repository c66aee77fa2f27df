"""Binomial trees: ceil(lg p) rounds to or from a root.

Ranks are renumbered so that the root is 0: v = (rank - root) mod p. The parent of v is v without
its lowest one bit, and v stands for the subtree v .. v + 2^k - 1, where 2^k is that bit.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Blocks, Recv, Round, Send


def spans(size: int) -> list[int]:
    """The distances 1, 2, 4, ... below size."""
    return [1 << k for k in range((size - 1).bit_length())]


def subtree(v: int, span: int, size: int, root: int) -> Blocks:
    """The blocks of the ranks v .. v + span - 1, counted from the root, as far as they exist."""
    return tuple((root + u) % size for u in range(v, min(v + span, size)))


def tree_broadcast(rank: int, size: int, root: int) -> Iterator[Round]:
    """Double the ranks that know the vector in every round.

    ceil(lg p) rounds, ceil(lg p) n bytes (the root's).
    """
    v, everything = (rank - root) % size, tuple(range(size))
    for span in reversed(spans(size)):
        if v % (2 * span) == 0 and v + span < size:
            yield (Send((rank + span) % size, everything),)
        elif v % (2 * span) == span:
            yield (Recv((rank - span) % size, everything),)
        else:
            yield ()


def tree_reduce(rank: int, size: int, root: int) -> Iterator[Round]:
    """Halve the ranks that hold a partial result in every round.

    ceil(lg p) rounds, n bytes. Operands are combined in the order root, root + 1, ..., root - 1.
    """
    v, everything = (rank - root) % size, tuple(range(size))
    for span in spans(size):
        if v % (2 * span) == 0 and v + span < size:
            yield (Recv((rank + span) % size, everything, "right"),)
        elif v % (2 * span) == span:
            yield (Send((rank - span) % size, everything),)
        else:
            yield ()


def ordered_tree_reduce(rank: int, size: int, root: int) -> Iterator[Round]:
    """Reduce to rank 0, which keeps the order of ranks, then hand the result to the root.

    ceil(lg p) + 1 rounds (one less for root 0), n bytes.
    """
    yield from tree_reduce(rank, size, 0)
    everything = tuple(range(size))
    if root == 0:
        return
    if rank == 0:
        yield (Send(root, everything),)
    elif rank == root:
        yield (Recv(0, everything),)
    else:
        yield ()


def tree_scatter(rank: int, size: int, root: int) -> Iterator[Round]:
    """Hand half of what is left to a new rank in every round.

    ceil(lg p) rounds, (p - 1)/p n bytes (the root's).
    """
    v = (rank - root) % size
    for span in reversed(spans(size)):
        if v % (2 * span) == 0 and v + span < size:
            yield (Send((rank + span) % size, subtree(v + span, span, size, root)),)
        elif v % (2 * span) == span:
            yield (Recv((rank - span) % size, subtree(v, span, size, root)),)
        else:
            yield ()


def tree_gather(rank: int, size: int, root: int) -> Iterator[Round]:
    """Scatter backwards: subtrees hand over all that they have collected.

    ceil(lg p) rounds. The root's busiest child sends max(p - h, h/2)/p n bytes for
    h = 2^(ceil(lg p) - 1), at most half of all.
    """
    v = (rank - root) % size
    for span in spans(size):
        if v % (2 * span) == 0 and v + span < size:
            yield (Recv((rank + span) % size, subtree(v + span, span, size, root)),)
        elif v % (2 * span) == span:
            yield (Send((rank - span) % size, subtree(v, span, size, root)),)
        else:
            yield ()


def tree_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Reduce to rank 0, then broadcast from it: keeps the order of ranks.

    2 ceil(lg p) rounds, ceil(lg p) n bytes (rank 0's).
    """
    yield from tree_reduce(rank, size, 0)
    yield from tree_broadcast(rank, size, 0)


def tree_reduce_scatter(rank: int, size: int) -> Iterator[Round]:
    """Reduce to rank 0, then scatter from it: keeps the order of ranks.

    2 ceil(lg p) rounds, (p - 1 + max(p - h, h/2))/p n bytes (a child's of rank 0) for
    h = 2^(ceil(lg p) - 1), at most 3/2 n.
    """
    yield from tree_reduce(rank, size, 0)
    yield from tree_scatter(rank, size, 0)


def tree_allgather(rank: int, size: int) -> Iterator[Round]:
    """Gather to rank 0, then broadcast from it.

    2 ceil(lg p) rounds, ceil(lg p) n bytes (rank 0's).
    """
    yield from tree_gather(rank, size, 0)
    yield from tree_broadcast(rank, size, 0)
