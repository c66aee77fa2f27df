"""Ring algorithms: every rank talks to its two neighbours only."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Algorithm, Recv, Round, Send, Side


def ring_reduce_scatter(rank: int, size: int) -> Iterator[Round]:
    """Send each block once around the ring; block r ends, complete, at rank r.

    p - 1 rounds, (p - 1)/p n bytes. Operands are combined in the order of the ring, which begins
    at another rank for each block. Patarasuk and Yuan, JPDC 2009.
    """
    left, right = (rank - 1) % size, (rank + 1) % size
    side: Side = "left" if left < rank else "right"
    for k in range(size - 1):
        out, into = (rank - k - 1) % size, (rank - k - 2) % size
        yield Send(right, (out,)), Recv(left, (into,), side)


def ring_allgather(rank: int, size: int) -> Iterator[Round]:
    """Send each block once around the ring; every rank keeps what passes.

    p - 1 rounds, (p - 1)/p n bytes.
    """
    left, right = (rank - 1) % size, (rank + 1) % size
    for k in range(size - 1):
        out, into = (rank - k) % size, (rank - k - 1) % size
        yield Send(right, (out,)), Recv(left, (into,))


def ring_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Reduce-scatter, then allgather, around one ring.

    2 (p - 1) rounds, 2 (p - 1)/p n bytes: no algorithm sends less. Patarasuk and Yuan, JPDC 2009.
    """
    yield from ring_reduce_scatter(rank, size)
    yield from ring_allgather(rank, size)


def segmented_ring_reduce_scatter(rank: int, size: int, *, segments: int = 1) -> Iterator[Round]:
    """ring_reduce_scatter, a segment of each block at a time.

    (p - 1) S rounds for S segments, (p - 1)/p n bytes. What a round brings is small enough to be
    in cache when it is reduced, and scratch memory is that of one segment.
    """
    return segmented(ring_reduce_scatter, rank, size, segments)


def segmented_ring_allreduce(rank: int, size: int, *, segments: int = 1) -> Iterator[Round]:
    """ring_allreduce, a segment of each block at a time.

    2 (p - 1) S rounds for S segments, 2 (p - 1)/p n bytes. Open MPI's coll/tuned has it.
    """
    return segmented(ring_allreduce, rank, size, segments)


def segmented(algorithm: Algorithm, rank: int, size: int, segments: int) -> Iterator[Round]:
    """Each round of an algorithm, once for every segment of its blocks."""
    for steps in algorithm(rank, size):
        for j in range(segments):
            yield tuple(
                step._replace(blocks=tuple(b * segments + j for b in step.blocks))
                for step in steps
                if isinstance(step, Send | Recv)
            )
