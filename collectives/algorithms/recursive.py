"""Recursive doubling and halving: exchange with partners at distances 1, 2, 4, ... or back.

Partners need a power of two. For p ranks let h = 2^m be the largest one that is not above p. The
first 2 f ranks, f = p - h, fold in pairs into the odd ones before, and unfold after. The h ranks
that are left are numbered in order: number i is rank 2 i + 1 for i < f, and rank i + f otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Blocks, Recv, Round, Send, Side


def recursive_doubling_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Exchange and reduce the whole vector with a partner at twice the distance in every round.

    lg p rounds and lg p n bytes where p is a power of two, else m + 2 rounds and (m + 1) n bytes.
    Partners stand for adjacent ranges of ranks, so the order of ranks is kept.
    Thakur, Rabenseifner and Gropp, IJHPCA 2005.
    """
    everything = tuple(range(size))
    half, folded = halves(size)
    if folded:
        yield fold(rank, folded, everything)
    number = active_number(rank, folded)
    distance = 1
    while distance < half:
        if number is None:
            yield ()
        else:
            peer = active_rank(number ^ distance, folded)
            yield Send(peer, everything), Recv(peer, everything, side(rank, peer))
        distance *= 2
    if folded:
        yield unfold(rank, folded, everything, everything)


def recursive_halving_reduce_scatter(rank: int, size: int) -> Iterator[Round]:
    """Exchange halves of what is left with a partner at half the distance in every round.

    lg p rounds and (p - 1)/p n bytes where p is a power of two, else m + 2 rounds and n bytes
    (those of a rank that folds). Operands are not combined in the order of ranks.
    Thakur, Rabenseifner and Gropp, IJHPCA 2005.
    """
    half, folded = halves(size)
    if folded:
        yield fold(rank, folded, tuple(range(size)))
    number = active_number(rank, folded)
    distance = half // 2
    while distance:
        if number is None:
            yield ()
        else:
            partner = number ^ distance
            peer = active_rank(partner, folded)
            kept = shares(number, distance, folded)
            yield (
                Send(peer, shares(partner, distance, folded)),
                Recv(peer, kept, side(rank, peer)),
            )
        distance //= 2
    if folded:
        yield unfold(rank, folded, (rank - 1,), (rank,))


def recursive_doubling_allgather(rank: int, size: int) -> Iterator[Round]:
    """Exchange all that is known with a partner at twice the distance in every round.

    lg p rounds and (p - 1)/p n bytes where p is a power of two, else m + 2 rounds and
    (h - 1 + s + p - 1)/p n bytes, s being the sum of min(2^j, f) for j < m: under 3 n.
    Thakur, Rabenseifner and Gropp, IJHPCA 2005.
    """
    half, folded = halves(size)
    if folded:
        yield fold(rank, folded, (rank - rank % 2,), reduce=False)
    number = active_number(rank, folded)
    distance = 1
    while distance < half:
        if number is None:
            yield ()
        else:
            partner = number ^ distance
            peer = active_rank(partner, folded)
            yield (
                Send(peer, shares(number, distance, folded)),
                Recv(peer, shares(partner, distance, folded)),
            )
        distance *= 2
    if folded:
        but_left = tuple(b for b in range(size) if b != rank - 1)
        but_mine = tuple(b for b in range(size) if b != rank)
        yield unfold(rank, folded, but_left, but_mine)


def rabenseifner_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Reduce-scatter by halves, partners at distances 1, 2, 4, ..., then allgather backwards.

    2 lg p rounds and 2 (p - 1)/p n bytes where p is a power of two, else 2 m + 2 rounds and
    (2 p + h - 3 + s)/p n bytes, s being the sum of min(2^j, f) for j < m: under 4 n. Near partners
    come first, so that the order of ranks is kept; this scatters blocks in the order of reversed
    bits, which the allgather undoes. Rabenseifner, ICCS 2004.
    """
    everything = tuple(range(size))
    half, folded = halves(size)
    if folded:
        yield fold(rank, folded, everything)
    number = active_number(rank, folded)
    if number is None:
        yield from [()] * (2 * (half.bit_length() - 1))
    else:
        halvings = list(bisections(number, half, folded))
        for peer, kept, given in halvings:
            yield Send(peer, given), Recv(peer, kept, side(rank, peer))
        for peer, kept, given in reversed(halvings):
            yield Send(peer, kept), Recv(peer, given)
    if folded:
        yield unfold(rank, folded, everything, everything)


def bisections(number: int, half: int, folded: int) -> Iterator[tuple[int, Blocks, Blocks]]:
    """The partner's rank in each round, the half of the blocks to keep, and the half to give."""
    first, length, distance = 0, half // 2, 1
    while length:
        lower, upper = shares(first, length, folded), shares(first + length, length, folded)
        peer = active_rank(number ^ distance, folded)
        if number & distance:
            yield peer, upper, lower
            first += length
        else:
            yield peer, lower, upper
        length, distance = length // 2, distance * 2


def halves(size: int) -> tuple[int, int]:
    """The largest power of two that is not above size, and what is left."""
    half = 1 << (size.bit_length() - 1)
    return half, size - half


def side(rank: int, peer: int) -> Side:
    """Where the peer's operand stands."""
    return "left" if peer < rank else "right"


def active_number(rank: int, folded: int) -> int | None:
    """The number of a rank among those that exchange; None for one that is folded away."""
    if rank >= 2 * folded:
        return rank - folded
    return rank // 2 if rank % 2 else None


def active_rank(number: int, folded: int) -> int:
    """The inverse of active_number."""
    return 2 * number + 1 if number < folded else number + folded


def shares(number: int, distance: int, folded: int) -> Blocks:
    """The blocks of an aligned group of so many numbers: two for each that stands for a pair."""
    first = number - number % distance
    last = first + distance
    return tuple(range(first + min(first, folded), last + min(last, folded)))


def fold(rank: int, folded: int, blocks: Blocks, reduce: bool = True) -> Round:
    """Of the first 2 folded ranks, the even ones give what they have to their right neighbour."""
    if rank >= 2 * folded:
        return ()
    if rank % 2 == 0:
        return (Send(rank + 1, blocks),)
    return (Recv(rank - 1, blocks, "left" if reduce else None),)


def unfold(rank: int, folded: int, given: Blocks, taken: Blocks) -> Round:
    """And receive what they must end with: an odd rank gives, an even one takes."""
    if rank >= 2 * folded:
        return ()
    return (Send(rank - 1, given),) if rank % 2 else (Recv(rank + 1, taken),)
