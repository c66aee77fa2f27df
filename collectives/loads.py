"""Run a schedule of one round of loads: the ranks lend each other blocks in shared memory.

Every rank copies what others load from it into its ring, tile by tile, and they take it from
there; from an array of comm.empty they take it where it lies. A schedule is compiled once for the
offsets of the blocks. All ranks cut alike what each of them lends, so that everyone knows where in
a tile of another's ring a block is.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import Offsets, Part
from .control import Topic, topic
from .reduction import Reduction
from .schedule import Algorithm, Blocks, Load, rounds
from .shared import Shared

Array = NDArray[Any]
Run = tuple[int, int]  # elements start to stop

TILE = 512 << 10  # bytes that a rank lends at a time, while others take what it has lent before


class Piece(NamedTuple):
    """Elements start to stop of a rank, and where in its tile they lie."""

    start: int
    stop: int
    place: int


class Taken(NamedTuple):
    """Elements start to stop of this rank, and the pieces that are combined there, by rank.

    This rank's own piece is not in its tile, but in its array.
    """

    start: int
    stop: int
    pieces: tuple[tuple[int, Piece], ...]


class Tile(NamedTuple):
    """A part of what everyone lends: elements at most, what this rank lends, and what it takes."""

    length: int
    lends: tuple[Piece, ...]
    takes: tuple[Taken, ...]


class Exchange(NamedTuple):
    """The tiles of one rank, and all ranks that lend anything."""

    tiles: tuple[Tile, ...]
    lenders: tuple[int, ...]
    lent: int
    """elements that this rank lends"""


@functools.lru_cache(maxsize=1024)
def exchange(
    algorithm: Algorithm,
    rank: int,
    root: int | None,
    where: tuple[Offsets, ...],
    most: int,
) -> Exchange:
    """Lay a schedule out over the blocks of all ranks, in tiles of so many elements."""
    size = len(where)
    loads = [only_round(algorithm, q, size, root) for q in range(size)]
    lent = [
        sorted(
            {
                run(load.blocks, where[q])
                for reader, load in every(loads)
                if load.peer == q != reader
            }
        )
        for q in range(size)
    ]
    lengths = [sum(stop - start for start, stop in runs) for runs in lent]
    count = max(1, -(-max(lengths) // most))
    tiles = []
    for turn in range(count):
        pieces = [laid_out(runs, turn, count) for runs in lent]
        length = max(sum(p.stop - p.start for p in one.values()) for one in pieces)
        takes = taken(rank, loads[rank], where, pieces, (turn, count))
        tiles.append(Tile(length, tuple(pieces[rank].values()), tuple(takes)))
    return Exchange(tuple(tiles), tuple(q for q in range(size) if lengths[q]), lengths[rank])


def only_round(algorithm: Algorithm, rank: int, size: int, root: int | None) -> tuple[Load, ...]:
    """The loads of a rank; ValueError for a schedule that is not one round of runs of blocks."""
    every_round = rounds(algorithm, rank, size, root)
    loads = tuple(step for step in every_round[0] if isinstance(step, Load))
    in_runs = all(is_run(load.blocks) and is_run(load.dest) for load in loads)
    if len(every_round) > 1 or len(loads) < len(every_round[0]) or not in_runs:
        raise ValueError(f"expected one round of loads of neighbouring blocks, got {every_round}")
    return loads


def every(loads: Sequence[tuple[Load, ...]]) -> Iterator[tuple[int, Load]]:
    """All loads, with the rank that makes them."""
    return ((rank, load) for rank, mine in enumerate(loads) for load in mine)


def is_run(blocks: Blocks) -> bool:
    return blocks == tuple(range(blocks[0], blocks[0] + len(blocks)))


def run(blocks: Blocks, where: Offsets) -> Run:
    """The elements of blocks that follow one another."""
    return where[blocks[0]], where[blocks[-1] + 1]


def cut(whole: Run, turn: int, count: int) -> Run:
    """One of so many parts of a run."""
    start, stop = whole
    return start + (stop - start) * turn // count, start + (stop - start) * (turn + 1) // count


def laid_out(runs: list[Run], turn: int, count: int) -> dict[Run, Piece]:
    """The parts of runs, one after another in a tile."""
    found, place = {}, 0
    for whole in runs:
        start, stop = cut(whole, turn, count)
        found[whole] = Piece(start, stop, place)
        place += stop - start
    return found


def taken(
    rank: int,
    loads: tuple[Load, ...],
    where: tuple[Offsets, ...],
    pieces: list[dict[Run, Piece]],
    turn: tuple[int, int],
) -> Iterator[Taken]:
    """What a rank makes of a tile: one for all loads that go into the same blocks."""
    for dest, group in itertools.groupby(loads, lambda load: load.dest):
        start, stop = cut(run(dest, where[rank]), *turn)
        if start == stop:
            continue
        operands: list[tuple[int, Piece]] = []
        for load in group:
            source = run(load.blocks, where[load.peer])
            own = Piece(*cut(run(load.blocks, where[rank]), *turn), 0)
            if load.reduce and not operands:
                operands.append((rank, own))
            piece = own if load.peer == rank else pieces[load.peer][source]
            operands.insert(0 if load.reduce == "left" else len(operands), (load.peer, piece))
        yield Taken(start, stop, tuple(operands))


@functools.lru_cache(maxsize=1024)
def described(
    call: str,
    op: str | None,
    name: str,
    dtype: np.dtype[Any],
    where: tuple[Offsets, ...],
    root: int | None,
) -> Topic:
    """The topic of one call: the same on all ranks that may make it together."""
    of_each = [" ".join(str(b - a) for a, b in itertools.pairwise(one)) for one in where]
    lengths = of_each[0] if len(set(of_each)) == 1 else "; ".join(of_each)
    parts = [call, op, f"by {name}", f"of {dtype} in blocks of {lengths}"]
    if not any(one[-1] for one in where):
        parts.pop()
    if root is not None:
        parts.append(f"from root {root}")
    return topic(" ".join(filter(None, parts)))


async def load(
    shared: Shared,
    call: str,
    what: Topic,
    plan: Exchange,
    source: Part,
    out: Part,
    how: Reduction | None = None,
) -> None:
    """Do it: lend from `source`, and take into `out`, which is the same memory or lies elsewhere.

    A rank that lends n bytes stores n, or none from an array of comm.empty.
    """
    loan = Loan(shared, source, out, how)
    shared.transport.bytes_sent += plan.lent * source.flat.itemsize
    place = shared.place(source.flat) if plan.lent else 0
    # Where the first of all elements would lie, if the whole buffer were there.
    tells = (1, source.origin - shared.arena.address) if place else ()
    told: list[tuple[int, ...]] | None = None
    views: Sequence[Array] = ()
    for tile in plan.tiles:
        if told is None or not all(told[q][0] for q in plan.lenders):
            nbytes = tile.length * source.flat.itemsize
            views = shared.viewed(source.flat.dtype, tile.length, shared.room(nbytes))
            if not place:
                loan.lend(tile, views[shared.rank])
            word = shared.announce(what, tells if told is None else ())
            await shared.announced(word, call)
        if told is None:
            told = shared.places(word)
            loan.bases = [base if is_open else None for is_open, base, *_ in told]
        loan.take(tile, views)
    if any(base is not None for base in loan.bases):
        shared.finish(word)
    if place:
        try:
            for q in shared.peers:
                await shared.done(q, word, call)
        except BaseException:
            shared.kept.append(source.flat)  # others may still read it
            raise


@dataclass
class Loan:
    """What a rank lends and takes in one call."""

    shared: Shared
    source: Part
    out: Part
    how: Reduction | None
    bases: Sequence[int | None] = ()
    """by rank: where in its segment its elements begin, None for those that are in its ring"""

    def lend(self, tile: Tile, view: Array) -> None:
        """Copy a tile into the ring."""
        flat, first = self.source.flat, self.source.start
        for start, stop, place in tile.lends:
            view[place : place + stop - start] = flat[start - first : stop - first]

    def take(self, tile: Tile, views: Sequence[Array]) -> None:
        """Copy or combine what others lend."""
        flat, first = self.out.flat, self.out.start
        for start, stop, pieces in tile.takes:
            into = flat[start - first : stop - first]
            operands = [self.operand(q, piece, views) for q, piece in pieces]
            if len(operands) == 1:
                into[...] = operands[0]
            else:
                assert self.how is not None
                if not self.how.elementwise:  # the caller's function may write into them
                    operands = [operand.copy() for operand in operands]
                self.shared.quiet.run(self.how.many, operands, into)

    def operand(self, rank: int, piece: Piece, views: Sequence[Array]) -> Array:
        """A piece where it lies."""
        start, stop, place = piece
        flat, first = self.source.flat, self.source.start
        if rank == self.shared.rank:
            return flat[start - first : stop - first]
        base = self.bases[rank]
        if base is None:
            return views[rank][place : place + stop - start]
        return self.shared.at(rank, base + start * flat.itemsize, flat.dtype, stop - start)
