"""Run one rank's rounds over a transport.

A schedule is compiled once for an algorithm, a rank and the offsets of the blocks: blocks become
ranges of the buffer, and a message of blocks that do not follow one another in memory goes through
scratch memory, as does everything that is to be reduced. Then a call is one loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import Offsets
from .schedule import Algorithm, Blocks, Copy, Recv, Round, Send, Side, rounds
from .transport import Requests, Transport

Array = NDArray[Any]
Combine = Callable[..., object]  # (left, right, *, out)

TAG = 0  # of all collectives; the tags of send and recv are above it


class Range(NamedTuple):
    """Elements start to stop, of the buffer or of the scratch memory."""

    start: int
    stop: int
    scratch: bool = False


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
) -> Program:
    """Lay a schedule out over a buffer. `signals`: empty messages are sent too (a barrier)."""
    stages, scratch = [], 0
    for steps in rounds(algorithm, rank, size, root):
        stage, needed = laid_out(steps, offsets, signals)
        scratch = max(scratch, needed)
        if any(stage):
            stages.append(stage)
    return Program(tuple(stages), scratch)


def laid_out(steps: Round, offsets: Offsets, signals: bool) -> tuple[Stage, int]:
    """One round as a stage, and its scratch memory."""
    packs: list[Move] = []
    recvs: list[Message] = []
    sends: list[Message] = []
    copies: list[Move] = []
    landings: list[Move] = []
    used = 0
    for step in steps:
        if isinstance(step, Copy):
            pairs = zip(step.source, step.dest, strict=True)
            copies += [Move(run(a, offsets), run(b, offsets)) for a, b in pairs]
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
    return Range(offsets[block], offsets[block + 1])


def runs(blocks: Blocks, offsets: Offsets) -> list[Range]:
    """The ranges of blocks, neighbours in memory joined; one range, empty, for nothing."""
    found: list[Range] = []
    for block in blocks:
        start, stop, _ = run(block, offsets)
        if start == stop:
            continue
        if found and found[-1].stop == start:
            start = found.pop().start
        found.append(Range(start, stop))
    return found or [Range(0, 0)]


def matched(pieces: list[Range], start: int) -> list[tuple[Range, Range]]:
    """Pieces of the buffer beside where they lie, one after another, in scratch memory."""
    pairs = []
    for piece in pieces:
        stop = start + piece.stop - piece.start
        pairs.append((piece, Range(start, stop, scratch=True)))
        start = stop
    return pairs


def execute(
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
        move(packs, memory, None)
        requests: Requests = []
        try:
            for peer, (start, stop, where) in recvs:
                requests += transport.irecv(raw[where][start * item : stop * item], peer, TAG)
            for peer, (start, stop, where) in sends:
                requests += transport.isend(raw[where][start * item : stop * item], peer, TAG)
            move(copies, memory, None)
            transport.wait(requests, peers)
        except BaseException:
            transport.abandon(requests)
            raise
        move(landings, memory, combine)


def move(moves: tuple[Move, ...], memory: tuple[Array, Array], combine: Combine | None) -> None:
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
