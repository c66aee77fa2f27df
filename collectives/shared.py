"""allreduce through memory that the ranks of one node share.

The schedules of these algorithms are in algorithms/shared.py, where they are proved and counted.
Here is the code that runs them, and not through execute.py: a round is a store of one word and a
look at another, of which Python leaves room for few.

Every rank has two slots, which it alone writes, and two lines of control for each. An array goes
through them in chunks, one slot full at a time, the slots in turn. A chunk is *announced* when it
can be read in the slot, and *reduced* when the rank's own slice of it holds the result. Either is
one word in the control line, of the chunk's number and a checksum of what the call is; so a rank
that waits for the word sees a call that differs from its own, and the text beside it says how.

Why two slots do without a barrier at the end of a call: a rank that has announced chunk k has read
all of chunk k - 1 (one_shot), or what others announced in k - 1 and what they reduced in k - 2
(two_shot, whose slices lie alike in all chunks of a call). All wait for all to have announced k,
and only then is the slot of k - 1 written again.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import Offsets, even
from .errors import CollectiveError, MismatchError, RankFailure
from .segment import Tell, is_alive, segments
from .transport import Transport
from .waiting import aside

Array = NDArray[Any]
Combine = Callable[..., object]  # (left, right, *, out), element by element

NAMES = ("one_shot", "two_shot")

SLOT = 512 << 10
TILE = 32 << 10  # bytes reduced at a time, that the accumulator stays in cache
CONTROL = 4096  # bytes before the slots
LINE = 8  # words of one cache line
TEXT = 256  # bytes that say what a call is, one text for each slot
TEXTS = 1024  # where they begin
ANNOUNCED, REDUCED = (LINE, 2 * LINE), (3 * LINE, 4 * LINE)  # words, by slot
BROKEN = -1  # in place of a word: this rank has left the group
LOOKS = 200  # before the core is yielded: some 10 us
CROWDED_LOOKS = 1  # the same where there are more ranks than cores
VIEWS = 64  # of slots, kept for calls of the same dtype and length


def share(transport: Transport, tell: Tell) -> Shared | None:
    """Shared memory for the ranks of a transport; None where there is none. Collective."""
    size = transport.size
    if size == 1 or not transport.has_processes or len(transport.node_ranks) < size:
        return None
    found = segments(transport.rank, CONTROL + 2 * SLOT, tell)
    return None if found is None else Shared(transport, found)


class Call(NamedTuple):
    """What a call is: an algorithm, and a text to compare with those of other ranks."""

    name: str
    text: bytes  # padded to TEXT
    checksum: int


@functools.lru_cache(maxsize=256)
def described(name: str, op: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Call:
    """The call of one rank."""
    text = padded(f"{op} by {name} of {dtype} {shape}")
    return Call(name, text, zlib.crc32(text))


def padded(text: str) -> bytes:
    return text.encode()[:TEXT].ljust(TEXT, b"\0")


class Shared:
    """The slots of all ranks, and this rank's place in their turn."""

    def __init__(self, transport: Transport, found: list[tuple[int, Any]]) -> None:
        self.transport = transport
        self.rank = transport.rank
        self.peers = [q for q in range(transport.size) if q != transport.rank]
        self.pids = [pid for pid, _ in found]
        is_crowded = len(found) > (os.cpu_count() or 1)
        self.looks = CROWDED_LOOKS if is_crowded else LOOKS
        self.memory = [memoryview(memory) for _, memory in found]
        self.words = [memory[:CONTROL].cast("q") for memory in self.memory]
        bounds = [CONTROL, CONTROL + SLOT, CONTROL + 2 * SLOT]
        self.slots = [
            [np.frombuffer(memory[bounds[k] : bounds[k + 1]], np.uint8) for memory in self.memory]
            for k in range(2)
        ]
        self.views: dict[tuple[np.dtype[Any], int], list[list[Array]]] = {}
        # As in MPI, an overflow is a value and no warning. np.errstate would cost a microsecond.
        self.quiet = contextvars.copy_context()
        self.quiet.run(np.seterr, all="ignore")
        self.turn = 0  # the number of the last chunk
        self.texts = [b"", b""]  # as they stand beside the slots

    def run(self, call: Call, x: Array, out: Array, combine: Combine) -> None:
        """Combine the x of all ranks into out, both flat and alike; they may be one array.

        All that a rank brings is stored for others once: its operand, or its slice of the result.
        """
        self.transport.bytes_sent += x.nbytes
        way = self.one_shot if call.name == "one_shot" else self.two_shot
        self.quiet.run(way, call, x, out, combine)

    def one_shot(self, call: Call, x: Array, out: Array, combine: Combine) -> None:
        """Everyone copies all in, and combines what all have, in the order of ranks."""
        length = chunk(x.size, x.itemsize)
        for mine, into in zip(cut(x, length), cut(out, length), strict=True):
            turn = self.turn = self.turn + 1
            operands = self.viewed(x.dtype, mine.size)[turn % 2]
            operands[self.rank][...] = mine
            self.await_all(ANNOUNCED[turn % 2], self.announce(turn, call))
            tiled(operands, into, combine)

    def two_shot(self, call: Call, x: Array, out: Array, combine: Combine) -> None:
        """Everyone combines its slice, and copies the slices of others out.

        A rank's own slice of x is never copied in; in the slot its place is the result's. The next
        chunk is copied in before this one's results are awaited.
        """
        rank, length = self.rank, chunk(x.size, x.itemsize)
        chunks = cut(x, length)
        expected = self.load(chunks[0], length, call)
        for mine, into, following in itertools.zip_longest(chunks, cut(out, length), chunks[1:]):
            slot = self.turn % 2
            where = slices(mine.size, length, len(self.pids))
            views = self.viewed(x.dtype, mine.size)[slot]
            self.await_all(ANNOUNCED[slot], expected)
            a, b = where[rank], where[rank + 1]
            operands = [mine[a:b] if q == rank else view[a:b] for q, view in enumerate(views)]
            tiled(operands, views[rank][a:b], combine, copy=into[a:b])
            self.words[rank][REDUCED[slot]] = done = expected
            if following is not None:
                expected = self.load(following, length, call)
            for q in (*self.peers[rank:], *self.peers[:rank]):  # each rank begins with another
                self.await_one(q, REDUCED[slot], done)
                into[where[q] : where[q + 1]] = views[q][where[q] : where[q + 1]]

    def load(self, x: Array, length: int, call: Call) -> int:
        """Copy in what others combine, and announce it; returns the word."""
        turn = self.turn = self.turn + 1
        where = slices(x.size, length, len(self.pids))
        a, b = where[self.rank], where[self.rank + 1]
        own = self.viewed(x.dtype, x.size)[turn % 2][self.rank]
        own[:a] = x[:a]
        own[b:] = x[b:]
        return self.announce(turn, call)

    def viewed(self, dtype: np.dtype[Any], count: int) -> list[list[Array]]:
        """The first elements of both slots of all ranks: viewed(...)[slot][rank]."""
        views = self.views.get((dtype, count))
        if views is None:
            if len(self.views) == VIEWS:
                self.views.clear()
            nbytes = count * dtype.itemsize
            views = [[one[:nbytes].view(dtype) for one in slot] for slot in self.slots]
            self.views[dtype, count] = views
        return views

    def announce(self, turn: int, call: Call) -> int:
        """Say that this rank's slot can be read, by a word that is returned."""
        slot = turn % 2
        if self.texts[slot] is not call.text:
            self.texts[slot] = call.text
            self.write(slot, call.text)  # before the word
        # 63 bits. Numbers may wrap, since a line sees every second one.
        word = (turn & 0x7FFFFFFF) << 32 | call.checksum
        self.words[self.rank][ANNOUNCED[slot]] = word
        return word

    def write(self, slot: int, text: bytes) -> None:
        start = TEXTS + slot * TEXT
        self.memory[self.rank][start : start + TEXT] = text

    def read(self, rank: int, slot: int) -> str:
        start = TEXTS + slot * TEXT
        return bytes(self.memory[rank][start : start + TEXT]).rstrip(b"\0").decode()

    def await_all(self, where: int, expected: int) -> None:
        for peer in self.peers:
            self.await_one(peer, where, expected)

    def await_one(self, peer: int, where: int, expected: int) -> None:
        """Return when a peer's word says that it is where this rank is."""
        words = self.words[peer]
        for _ in range(self.looks):
            if words[where] == expected:
                return
        aside(
            lambda: self.is_there(peer, words[where], expected),
            self.transport.patience,
            lambda: f"rank {self.rank} of {len(self.pids)} has waited for rank {peer}",
            lambda: self.look_after(peer, words, where, expected),
        )

    def is_there(self, peer: int, seen: int, expected: int) -> bool:
        """Whether a peer is where this rank is; raise if it does something else, or nothing."""
        slot = expected >> 32 & 1
        if seen == BROKEN:
            raise CollectiveError(f"rank {peer} gave up: {self.read(peer, slot)}")
        if seen >> 32 == expected >> 32 and seen != expected:
            mine, theirs = self.read(self.rank, slot), self.read(peer, slot)
            raise MismatchError(
                f"allreduce: rank {self.rank} has {mine}, but rank {peer} has {theirs}"
            )
        return seen == expected

    def look_after(self, peer: int, words: memoryview, where: int, expected: int) -> None:
        """Raise if a peer is dead; let messages move on, which others may wait for."""
        self.transport.progress()
        # It may have ended right after its part.
        if not is_alive(self.pids[peer]) and words[where] != expected:
            raise RankFailure(f"rank {peer} (process {self.pids[peer]}) ended in an allreduce")

    def leave(self, error: BaseException) -> None:
        """Tell whoever waits for this rank that it will not come."""
        # All ranks see a mismatch; this would hide it.
        if isinstance(error, MismatchError):
            return
        text = padded(f"{type(error).__name__}: {error}")
        words, now = self.words[self.rank], self.turn & 0x7FFFFFFF
        for slot in range(2):
            self.write(slot, text)
        for where in (*ANNOUNCED, *REDUCED):
            if words[where] >> 32 != now:  # what is done may still be read
                words[where] = BROKEN


@functools.lru_cache(maxsize=256)
def chunk(count: int, itemsize: int) -> int:
    """Elements of a chunk, when so many go through a slot in chunks of one length."""
    chunks = max(1, -(-count // (SLOT // itemsize)))
    return max(1, -(-count // chunks))


@functools.lru_cache(maxsize=256)
def slices(count: int, length: int, size: int) -> Offsets:
    """The ranks' slices of a chunk, cut off at `count` where the last one is shorter."""
    return tuple(min(offset, count) for offset in even(length, size))


def cut(x: Array, length: int) -> list[Array]:
    """Chunks of an array; at least one, also of nothing."""
    if x.size <= length:
        return [x]
    return [x[start : start + length] for start in range(0, x.size, length)]


def tiled(operands: list[Array], into: Array, combine: Combine, copy: Array | None = None) -> None:
    """Combine operands from left to right; `copy` takes the result too, while it is in cache."""
    if into.nbytes > TILE:
        length = max(1, TILE // into.itemsize)
        for start in range(0, into.size, length):
            tile = slice(start, start + length)
            parts = [operand[tile] for operand in operands]
            tiled(parts, into[tile], combine, None if copy is None else copy[tile])
        return
    combine(operands[0], operands[1], out=into)
    for operand in operands[2:]:
        combine(into, operand, out=into)
    if copy is not None:
        copy[...] = into
