"""Algorithms of ranks that share memory: they load each other's blocks instead of messages.

Spare blocks p .. 2p - 1 are the slots of a rank in that memory; collectives/shared.py runs them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Blocks, Copy, Load, Round, Side


def one_shot_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Lay the vector open, then combine the vectors of all ranks, each rank for itself.

    One local round, then 1 round, in which (p - 1) n bytes are loaded. All combine from rank 0 to
    rank p - 1, so that all have the same bits.
    """
    everything = tuple(range(size))
    slots = tuple(range(size, 2 * size))
    yield (Copy(everything, slots),)
    yield tuple(Load(peer, slots, side(peer), everything) for peer in range(size))


def two_shot_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Combine block r of all ranks at rank r, then load the others' results.

    One local round, then 2 rounds, in each of which (p - 1)/p n bytes are loaded. Rank r's own
    block r is not copied into its slot, which is for the result; blocks are combined from rank 0
    to rank p - 1.
    """
    others = tuple(block for block in range(size) if block != rank)
    result: Blocks = (size + rank,)
    yield (Copy(others, tuple(size + block for block in others)),)
    yield tuple(
        Load(peer, (rank,) if peer == rank else result, side(peer), result) for peer in range(size)
    )
    yield tuple(Load(peer, (size + peer,), None, (peer,)) for peer in range(size))


def single_copy_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Combine block r of all ranks at rank r, read where it lies, then load the others' results.

    2 rounds, in each of which (p - 1)/p n bytes are loaded; nothing is copied in. Blocks are
    combined from rank 0 to rank p - 1.
    """
    result: Blocks = (size + rank,)
    yield tuple(Load(peer, (rank,), side(peer), result) for peer in range(size))
    yield tuple(Load(peer, (size + peer,), None, (peer,)) for peer in range(size))


def side(peer: int) -> Side | None:
    """The operand of rank 0 is stored first, and all others stand to its right."""
    return "right" if peer else None
