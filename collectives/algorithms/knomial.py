"""Trees of tree.py with radix 4: half as many rounds as binomial ones."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Round
from .tree import tree_broadcast, tree_gather, tree_reduce, tree_scatter


def knomial_broadcast(rank: int, size: int, root: int, *, radix: int = 4) -> Iterator[Round]:
    """Multiply the ranks that know the vector by k in every round.

    L = ceil(log_k p) rounds, ((k - 1)(L - 1) + ceil(p / k^(L - 1)) - 1) n bytes (the root's).
    """
    return tree_broadcast(rank, size, root, radix=radix)


def knomial_reduce(rank: int, size: int, root: int, *, radix: int = 4) -> Iterator[Round]:
    """Divide the ranks that hold a partial result by k in every round.

    L = ceil(log_k p) rounds, n bytes; the root receives what it sends in a broadcast. Operands
    are combined in the order root, root + 1, ..., root - 1.
    """
    return tree_reduce(rank, size, root, radix=radix)


def knomial_allreduce(rank: int, size: int, *, radix: int = 4) -> Iterator[Round]:
    """Reduce to rank 0, then broadcast from it: keeps the order of ranks.

    2 ceil(log_k p) rounds, the bytes of the broadcast.
    """
    yield from tree_reduce(rank, size, 0, radix=radix)
    yield from tree_broadcast(rank, size, 0, radix=radix)


def knomial_scatter(rank: int, size: int, root: int, *, radix: int = 4) -> Iterator[Round]:
    """Hand all but a share of what is left to k - 1 new ranks in every round.

    ceil(log_k p) rounds, (p - 1)/p n bytes (the root's).
    """
    return tree_scatter(rank, size, root, radix=radix)


def knomial_gather(rank: int, size: int, root: int, *, radix: int = 4) -> Iterator[Round]:
    """Scatter backwards.

    L = ceil(log_k p) rounds. The root's busiest child stands for min(k^(L - 1), p - k^(L - 1))
    ranks or, where that is more, for k^(L - 2), and sends as many blocks; the root receives
    (p - 1)/p n bytes.
    """
    return tree_gather(rank, size, root, radix=radix)
