"""Algorithms of one round: every rank loads what it needs from where it lies.

For ranks that share memory; collectives/loads.py runs them. What is reduced is combined from rank
0 to rank p - 1. MSCCL calls such algorithms all-pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Blocks, Load, Round


def direct_broadcast(rank: int, size: int, root: int) -> Iterator[Round]:
    """Load the root's vector: 1 round, n bytes for every rank but the root."""
    yield () if rank == root else (Load(root, tuple(range(size))),)


def direct_scatter(rank: int, size: int, root: int) -> Iterator[Round]:
    """Load one's block from the root: 1 round, n/p bytes for every rank but the root."""
    yield () if rank == root else (Load(root, (rank,)),)


def direct_gather(rank: int, size: int, root: int) -> Iterator[Round]:
    """The root loads the others' blocks: 1 round, (p - 1)/p n bytes."""
    yield tuple(others(rank, size)) if rank == root else ()


def direct_allgather(rank: int, size: int) -> Iterator[Round]:
    """Everyone loads the others' blocks: 1 round, (p - 1)/p n bytes for every rank."""
    yield tuple(others(rank, size))


def direct_reduce(rank: int, size: int, root: int) -> Iterator[Round]:
    """The root loads the others' vectors: 1 round, (p - 1) n bytes."""
    yield operands(rank, size, tuple(range(size))) if rank == root else ()


def direct_reduce_scatter(rank: int, size: int) -> Iterator[Round]:
    """Everyone loads its block of the others: 1 round, (p - 1)/p n bytes for every rank."""
    yield operands(rank, size, (rank,))


def direct_alltoall(rank: int, size: int) -> Iterator[Round]:
    """Everyone loads what the others have for it: 1 round, (p - 1)/p n bytes for every rank."""
    yield tuple(Load(peer, (rank,), None, (size + peer,)) for peer in range(size))


def others(rank: int, size: int) -> Iterator[Load]:
    """Block q of every other rank q; each rank begins with another."""
    for distance in range(1, size):
        peer = (rank + distance) % size
        yield Load(peer, (peer,))


def operands(rank: int, size: int, blocks: Blocks) -> Round:
    """The blocks of every other rank, on the side of one's own on which they stand."""
    lower = [Load(peer, blocks, "left") for peer in reversed(range(rank))]
    return (*lower, *(Load(peer, blocks, "right") for peer in range(rank + 1, size)))
