"""Recursive doubling: exchange with partners at distances 1, 2, 4, ..."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Blocks, Recv, Round, Send, Side


def recursive_doubling_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Exchange and reduce the whole vector with a partner at twice the distance in every round.

    lg p rounds and lg p n bytes where p is a power of two. Otherwise the first 2 (p - 2^m) ranks,
    m = floor(lg p), fold in pairs into the odd ones and unfold at the end: m + 2 rounds,
    (m + 1) n bytes. Partners stand for adjacent ranges of ranks, so the order of ranks is kept.
    Thakur, Rabenseifner and Gropp, IJHPCA 2005.
    """
    everything = tuple(range(size))
    half = 1 << (size.bit_length() - 1)
    folded = size - half
    if folded:
        yield fold(rank, folded, everything)
    number = active_number(rank, folded)
    distance = 1
    while distance < half:
        if number is None:
            yield ()
        else:
            peer = active_rank(number ^ distance, folded)
            side: Side = "left" if peer < rank else "right"
            yield Send(peer, everything), Recv(peer, everything, side)
        distance *= 2
    if folded:
        yield unfold(rank, folded, everything)


def active_number(rank: int, folded: int) -> int | None:
    """The number of a rank among those that exchange; None for one that is folded away."""
    if rank >= 2 * folded:
        return rank - folded
    return rank // 2 if rank % 2 else None


def active_rank(number: int, folded: int) -> int:
    """The inverse of active_number."""
    return 2 * number + 1 if number < folded else number + folded


def fold(rank: int, folded: int, blocks: Blocks) -> Round:
    """Of the first 2 folded ranks, the even ones give their operand to their right neighbour."""
    if rank >= 2 * folded:
        return ()
    return (Recv(rank - 1, blocks, "left"),) if rank % 2 else (Send(rank + 1, blocks),)


def unfold(rank: int, folded: int, blocks: Blocks) -> Round:
    """And receive the result from it."""
    if rank >= 2 * folded:
        return ()
    return (Send(rank - 1, blocks),) if rank % 2 else (Recv(rank + 1, blocks),)
