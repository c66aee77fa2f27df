"""Pipelined chains: each rank passes the vector on to the next one, piece by piece.

The pieces are the segments of all blocks, S p of them where blocks have S segments each.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Recv, Round, Send


def chain_broadcast(rank: int, size: int, root: int, *, segments: int = 1) -> Iterator[Round]:
    """Pass the pieces on from the root to root + 1, and so on.

    S p + p - 2 rounds, n bytes.
    """
    v, pieces = (rank - root) % size, segments * size
    for k in range(pieces + size - 2 if size > 1 else 0):
        came, goes = k - v + 1, k - v
        steps: list[Send | Recv] = []
        if v < size - 1 and 0 <= goes < pieces:
            steps.append(Send((rank + 1) % size, (goes,)))
        if v > 0 and 0 <= came < pieces:
            steps.append(Recv((rank - 1) % size, (came,)))
        yield tuple(steps)


def chain_reduce(rank: int, size: int, root: int, *, segments: int = 1) -> Iterator[Round]:
    """Pass the pieces on towards the root, each rank adding its own: keeps the order of ranks.

    Two chains end at the root, one of the lower and one of the higher ranks. S p + d - 1 rounds,
    where d = max(root, p - 1 - root) is the length of the longer one; n bytes.
    """
    pieces, d = segments * size, abs(rank - root)
    longer = max(root, size - 1 - root)
    for k in range(pieces + longer - 1 if size > 1 else 0):
        # At distance d a rank sends piece t in round t + longer - d.
        goes, came = k - longer + d, k - longer + d + 1
        steps: list[Send | Recv] = []
        if d > 0 and 0 <= goes < pieces:
            steps.append(Send(rank + 1 if rank < root else rank - 1, (goes,)))
        if 0 <= came < pieces:
            if 0 < rank <= root:
                steps.append(Recv(rank - 1, (came,), "left"))
            if root <= rank < size - 1:
                steps.append(Recv(rank + 1, (came,), "right"))
        yield tuple(steps)
