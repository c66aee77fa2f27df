"""Binomial and k-nomial trees: ceil(log_k p) rounds to or from a root.

Ranks are renumbered so that the root is 0: v = (rank - root) mod p. Written in base k, the parent
of v is v with its lowest digit that is not 0 made 0; if that is the digit of k^j, v stands for the
subtree v .. v + k^j - 1. A binomial tree has k = 2. With a larger k there are fewer rounds, and in
each of them up to k - 1 messages at a node.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Blocks, Recv, Round, Send


def spans(size: int, radix: int) -> list[int]:
    """The powers of the radix below size."""
    powers = [1]
    while powers[-1] < size:
        powers.append(powers[-1] * radix)
    return powers[:-1]


def subtree(v: int, span: int, size: int, root: int) -> Blocks:
    """The blocks of the ranks v .. v + span - 1, counted from the root, as far as they exist."""
    return tuple((root + u) % size for u in range(v, min(v + span, size)))


def children(v: int, span: int, size: int, radix: int) -> range:
    """Those that v hands to, or takes from, when subtrees have `span` ranks."""
    if v % (radix * span):
        return range(0)
    return range(v + span, min(v + radix * span, size), span)


def parent(v: int, span: int, radix: int) -> int | None:
    """The rank that v takes from, or hands to, when subtrees have `span` ranks."""
    is_child = v % span == 0 and v % (radix * span) != 0
    return v - v % (radix * span) if is_child else None


def tree_broadcast(rank: int, size: int, root: int, *, radix: int = 2) -> Iterator[Round]:
    """Multiply the ranks that know the vector by the radix in every round.

    ceil(lg p) rounds, ceil(lg p) n bytes (the root's).
    """
    v, everything = (rank - root) % size, tuple(range(size))
    for span in reversed(spans(size, radix)):
        above = parent(v, span, radix)
        if above is not None:
            yield (Recv((root + above) % size, everything),)
        else:
            below = children(v, span, size, radix)
            yield tuple(Send((root + u) % size, everything) for u in below)


def tree_reduce(rank: int, size: int, root: int, *, radix: int = 2) -> Iterator[Round]:
    """Divide the ranks that hold a partial result by the radix in every round.

    ceil(lg p) rounds, n bytes. Operands are combined in the order root, root + 1, ..., root - 1.
    """
    v, everything = (rank - root) % size, tuple(range(size))
    for span in spans(size, radix):
        above = parent(v, span, radix)
        if above is not None:
            yield (Send((root + above) % size, everything),)
        else:
            below = children(v, span, size, radix)
            yield tuple(Recv((root + u) % size, everything, "right") for u in below)


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


def tree_scatter(rank: int, size: int, root: int, *, radix: int = 2) -> Iterator[Round]:
    """Hand all but a share of what is left to new ranks in every round.

    ceil(lg p) rounds, (p - 1)/p n bytes (the root's).
    """
    v = (rank - root) % size
    for span in reversed(spans(size, radix)):
        above = parent(v, span, radix)
        if above is not None:
            yield (Recv((root + above) % size, subtree(v, span, size, root)),)
        else:
            below = children(v, span, size, radix)
            yield tuple(Send((root + u) % size, subtree(u, span, size, root)) for u in below)


def tree_gather(rank: int, size: int, root: int, *, radix: int = 2) -> Iterator[Round]:
    """Scatter backwards: subtrees hand over all that they have collected.

    ceil(lg p) rounds. The root's busiest child sends max(p - h, h/2)/p n bytes for
    h = 2^(ceil(lg p) - 1), at most half of all.
    """
    v = (rank - root) % size
    for span in spans(size, radix):
        above = parent(v, span, radix)
        if above is not None:
            yield (Send((root + above) % size, subtree(v, span, size, root)),)
        else:
            below = children(v, span, size, radix)
            yield tuple(Recv((root + u) % size, subtree(u, span, size, root)) for u in below)


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
