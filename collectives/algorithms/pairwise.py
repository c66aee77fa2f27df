"""Pairwise exchange: in round k every rank sends k ranks up and receives from k ranks down."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Copy, Recv, Round, Send


def pairwise_alltoall(rank: int, size: int) -> Iterator[Round]:
    """Send block j to rank j, and receive rank i's block into block p + i.

    One local round, then p - 1 rounds, (p - 1)/p n bytes: no algorithm sends less.
    """
    yield (Copy((rank,), (size + rank,)),)
    for k in range(1, size):
        dest, source = (rank + k) % size, (rank - k) % size
        yield Send(dest, (dest,)), Recv(source, (size + source,))
