"""Algorithms that are one algorithm after another."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Round
from .ring import ring_allgather
from .tree import tree_scatter


def scatter_allgather_broadcast(rank: int, size: int, root: int) -> Iterator[Round]:
    """Scatter the vector down a tree, then gather it around a ring.

    ceil(lg p) + p - 1 rounds, 2 (p - 1)/p n bytes (the root's).
    Barnett, Shuler, van de Geijn, Gupta, Payne and Watts, SHPCC 1994.
    """
    yield from tree_scatter(rank, size, root)
    yield from ring_allgather(rank, size)
