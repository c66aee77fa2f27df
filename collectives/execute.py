"""Run one rank's rounds over a transport.

A schedule is compiled once for an algorithm, a rank and the offsets of the blocks: blocks become
ranges of the buffer, and a message of blocks that do not follow one another in memory goes through
scratch memory, as does everything that is to be reduced. Spare blocks lie at the beginning of
scratch memory, in banks that look like the buffer. Then a call is one loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import Offsets, segmented
from .schedule import Algorithm, Blocks, Copy, Load, Recv, Round, Send, Side, rounds
from .transport import Requests, Transport
from .waiting import until

Array = NDArray[Any]
Combine = Callable[..., object]  # (left, right, *, out)

TAG = 0  # of all collectives; the tags of send and recv are above it


class Range(NamedTuple):
    """Elements start to stop, of the buffer or of the scratch memory."""

    start: int
    stop: int
    scratch: bool = False

    def leads_to(self, other: Range) -> bool:
        """Whether the other one follows in memory."""
        return self.stop == other.start and self.scratch == other.scratch

    def through(self, other: Range) -> Range:
        """From here to the end of the other."""
        return self._replace(stop=other.stop)


class Message(NamedTuple):
    peer: int
    where: Range


class Move(NamedTuple):
    """Elements that go from one range into another, or are reduced into it from one side."""

    source: Range
    dest: Range
    reduce: Side | None = None


class Stage(NamedTuple):
    """One round, ready to run: in this order."""

    packs: tuple[Move, ...]
    recvs: tuple[Message, ...]
    sends: tuple[Message, ...]
    copies: tuple[Move, ...]
    peers: tuple[int, ...]
    landings: tuple[Move, ...]


class Program(NamedTuple):
    """The stages of one rank, and the elements of scratch memory that they need."""

    stages: tuple[Stage, ...]
    scratch: int


@functools.lru_cache(maxsize=1024)
def compiled(
    algorithm: Algorithm,
    rank: int,
    size: int,
    root: int | None,
    offsets: Offsets,
    signals: bool = False,
    **options: Any,
) -> Program:
    """Lay a schedule out over a buffer. `signals`: empty messages are sent too (a barrier)."""
    every_round = rounds(algorithm, rank, size, root, **options)
    offsets = segmented(offsets, options.get("segments", 1))
    spare = scratch = banks(every_round, len(offsets) - 1) * offsets[-1]
    stages = []
    for steps in every_round:
        stage, end = laid_out(steps, rank, offsets, spare, signals)
        scratch = max(scratch, end)
        if any(stage):
            stages.append(stage)
    return Program(tuple(stages), scratch)


def banks(every_round: tuple[Round, ...], blocks: int) -> int:
    """How many times so many spare blocks a rank uses."""
    written = [
        block
        for steps in every_round
        for step in steps
        if not isinstance(step, Send)
        for block in (step.blocks if isinstance(step, Recv) else step.dest)
    ]
    return max(written, default=0) // blocks


def laid_out(
    steps: Round, rank: int, offsets: Offsets, used: int, signals: bool
) -> tuple[Stage, int]:
    """One round as a stage, and the end of its scratch memory, of which some is used before."""
    packs: list[Move] = []
    recvs: list[Message] = []
    sends: list[Message] = []
    copies: list[Move] = []
    landings: list[Move] = []
    for step in steps:
        if isinstance(step, Copy):
            copies += moves(step.source, step.dest, offsets)
            continue
        if isinstance(step, Load):
            if step.peer != rank:
                raise ValueError(f"expected messages, got a load from the memory of {step.peer}")
            landings += moves(step.blocks, step.dest, offsets, step.reduce)
            continue
        pieces = runs(step.blocks, offsets)
        length = sum(piece.stop - piece.start for piece in pieces)
        if length == 0 and not signals:
            continue
        direct = len(pieces) == 1 and (isinstance(step, Send) or step.reduce is None)
        where = pieces[0] if direct else Range(used, used + length, scratch=True)
        parts = [] if direct else matched(pieces, used)
        used += 0 if direct else length
        if isinstance(step, Recv):
            recvs.append(Message(step.peer, where))
            landings += [Move(part, piece, step.reduce) for piece, part in parts]
        else:
            sends.append(Message(step.peer, where))
            packs += [Move(piece, part) for piece, part in parts]
    peers = tuple(message.peer for message in (*recvs, *sends))
    stage = Stage(tuple(packs), tuple(recvs), tuple(sends), tuple(copies), peers, tuple(landings))
    return stage, used


def run(block: int, offsets: Offsets) -> Range:
    """The range of one block."""
    bank, place = divmod(block, len(offsets) - 1)
    before = max(bank - 1, 0) * offsets[-1]
    return Range(before + offsets[place], before + offsets[place + 1], scratch=bank > 0)


def moves(
    source: Blocks, dest: Blocks, offsets: Offsets, reduce: Side | None = None
) -> list[Move]:
    """The moves of blocks within a rank, neighbours in memory joined."""
    found: list[Move] = []
    for a, b in zip(source, dest, strict=True):
        origin, place = run(a, offsets), run(b, offsets)
        if origin.start == origin.stop:
            continue
        if found and found[-1].source.leads_to(origin) and found[-1].dest.leads_to(place):
            last = found.pop()
            origin, place = last.source.through(origin), last.dest.through(place)
        found.append(Move(origin, place, reduce))
    return found


def runs(blocks: Blocks, offsets: Offsets) -> list[Range]:
    """The ranges of blocks, neighbours in memory joined; one range, empty, for nothing."""
    found: list[Range] = []
    for block in blocks:
        here = run(block, offsets)
        if here.start == here.stop:
            continue
        if found and found[-1].leads_to(here):
            here = found.pop().through(here)
        found.append(here)
    return found or [Range(0, 0)]


def matched(pieces: list[Range], start: int) -> list[tuple[Range, Range]]:
    """Pieces of the buffer beside where they lie, one after another, in scratch memory."""
    pairs = []
    for piece in pieces:
        stop = start + piece.stop - piece.start
        pairs.append((piece, Range(start, stop, scratch=True)))
        start = stop
    return pairs


async def execute(
    program: Program, buffer: Array, transport: Transport, combine: Combine | None
) -> None:
    """Run a program on a one-dimensional contiguous buffer, in place.

    After an exception the transport keeps what is under way.
    """
    scratch = np.empty(program.scratch, buffer.dtype)
    memory = (buffer, scratch)
    raw = (buffer.view(np.uint8), scratch.view(np.uint8))
    item = buffer.itemsize
    for packs, recvs, sends, copies, peers, landings in program.stages:
        move(packs, memory)
        requests: Requests = []
        try:
            for peer, (start, stop, where) in recvs:
                requests += transport.irecv(raw[where][start * item : stop * item], peer, TAG)
            for peer, (start, stop, where) in sends:
                requests += transport.isend(raw[where][start * item : stop * item], peer, TAG)
            move(copies, memory)
            await until(transport.pending(requests, peers))
        except BaseException:
            transport.abandon(requests)
            raise
        # As in MPI, an overflow is a value and no warning.
        with np.errstate(all="ignore"):
            move(landings, memory, combine)


def move(
    moves: tuple[Move, ...], memory: tuple[Array, Array], combine: Combine | None = None
) -> None:
    """Copy or reduce ranges into ranges."""
    for (start, stop, came), (first, last, into), side in moves:
        source, dest = memory[came][start:stop], memory[into][first:last]
        if side is None:
            dest[:] = source
        elif combine is None:
            raise TypeError("expected an operation to reduce with, got None")
        elif side == "left":
            combine(source, dest, out=dest)
        else:
            combine(dest, source, out=dest)
