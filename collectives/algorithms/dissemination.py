"""Dissemination: knowledge of others doubles in every round."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Recv, Round, Send


def dissemination_barrier(rank: int, size: int) -> Iterator[Round]:
    """Tell the rank at distance 1, 2, 4, ... of all those that have been heard of.

    Block i stands for "rank i has arrived" and is empty when executed, but its message is sent.
    ceil(lg p) rounds, no bytes. Hensgen, Finkel and Manber, IJPP 1988.
    """
    distance = 1
    while distance < size:
        news = range(min(distance, size - distance))
        source = (rank - distance) % size
        yield (
            Send((rank + distance) % size, tuple((rank - i) % size for i in news)),
            Recv(source, tuple((source - i) % size for i in news)),
        )
        distance *= 2
