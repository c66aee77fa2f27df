"""Bruck's algorithms: ceil(lg p) rounds for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Copy, Recv, Round, Send


def bruck_allgather(rank: int, size: int) -> Iterator[Round]:
    """Hand all that is known to the rank at distance 1, 2, 4, ... below.

    ceil(lg p) rounds, (p - 1)/p n bytes. Blocks lie where they belong from the start, so nothing
    is rotated at the end; a message that wraps around is put together by the executor.
    Bruck, Ho, Kipnis, Upfal and Weathersby, IEEE TPDS 1997.
    """
    distance = 1
    while distance < size:
        news = range(min(distance, size - distance))
        source = (rank + distance) % size
        yield (
            Send((rank - distance) % size, tuple((rank + i) % size for i in news)),
            Recv(source, tuple((source + i) % size for i in news)),
        )
        distance *= 2


def bruck_alltoall(rank: int, size: int) -> Iterator[Round]:
    """Move the blocks for ranks at distance i up by the ones of i in binary, as many at a time.

    ceil(lg p) rounds and a local one. A block at distance i is sent once for every one of i, so
    n/p bytes for every one of 0 .. p - 1: n/2 lg p where p is a power of two. All blocks must be
    of one length, since they lie in each other's places on their way: those at distance i in the
    block for rank + i and, every other time, in the block that waits for rank - i, where they
    must end. Bruck, Ho, Kipnis, Upfal and Weathersby, IEEE TPDS 1997.
    """
    places = [((rank + i) % size, size + (rank - i) % size) for i in range(size)]
    hops = [0] * size
    distance = 1
    while distance < size:
        moving = [i for i in range(size) if i & distance]
        yield (
            Send((rank + distance) % size, tuple(places[i][hops[i] % 2] for i in moving)),
            Recv((rank - distance) % size, tuple(places[i][1 - hops[i] % 2] for i in moving)),
        )
        for i in moving:
            hops[i] += 1
        distance *= 2
    stay = [place for place, count in zip(places, hops, strict=True) if count % 2 == 0]
    yield (Copy(tuple(a for a, _ in stay), tuple(b for _, b in stay)),)
