"""Memory that the ranks of one node share, and what they tell each other through it.

Every rank has a ring of memory, which it alone writes, and lines of control. What others shall
read goes into the ring in chunks. A chunk is *announced* when it can be read there, and *done*
when what the rank makes of it, or of others', can be read too. Either is one word in a control
line, of the number of the chunk and a checksum of what the call is; so a rank that waits for the
word sees a call that differs from its own, and the text beside it says how. There are two lines of
each kind, for chunks in turn. Beside the word stands where the rank's own arrays lie, if others
can read them.

Why no barrier is needed at the end of a call: a rank that announces chunk k has read what others
announced in k - 1 and what they have done in k - 2. All wait for all to have announced k before
they write k + 1, so that it may lie where k - 2 lay, though not where k - 1 or k lie.

Why a ring, where two slots would do: to write memory that another core holds in its cache takes
several times as long as to write any other. By the time when the ring comes round it holds others.
For long arrays see pace.py.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import os
import sys
import weakref
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from .arena import Arena, Piece
from .attach import Attached
from .control import (
    ANNOUNCED,
    BROKEN,
    CONTROL,
    DONE,
    FREED,
    NAME,
    PLACES,
    TEXT,
    TEXTS,
    Topic,
    topic,
)
from .errors import CollectiveError, MismatchError, RankFailure
from .pace import Pace
from .results import Results
from .segment import is_alive
from .transport import Transport
from .waiting import Wait, until

Array = NDArray[Any]

# Sizes in bytes; scripts/results has the measurements behind them.
RING = 16 << 20
SLOT, SLOTS = 4 << 10, 16  # behind the ring, for the shortest chunks in turn
SPAN = CONTROL + RING + SLOTS * SLOT  # of a rank's memory
CHUNK = 4 << 20  # the most, of which the ring has room for four
STEP = 1 << 10  # the least that a chunk takes of the ring
TURNS = 16  # of chunks of one length, until the ring comes round
SHORT_TURNS, SHORT = 64, 4 << 20  # of short ones, which take no more than so much
LOOKS, YIELDS = 60, 20  # that a call which blocks does by itself; some 10 us, or their turns
VIEWS = 4096  # of the ring, kept for chunks of the same dtype, length and place


class Member(NamedTuple):
    """A rank's process, its segment, and where this group's piece of it begins."""

    pid: int
    bytes: NDArray[np.uint8]
    start: int
    name: int


CLOSED: list[Shared] = []  # of this process, until all ranks have closed theirs
OPEN: weakref.WeakSet[Shared] = weakref.WeakSet()


def sweep() -> None:
    """Take back the memory that no rank looks at any more."""
    for shared in list(CLOSED):
        if shared.is_over():
            CLOSED.remove(shared)
            shared.arena.returned.append(shared.piece)


@functools.lru_cache(maxsize=1024)
def strides(nbytes: int, ring: int | None) -> tuple[int, int]:
    """From one chunk of so many bytes to the next, and where they begin anew."""
    step = STEP if nbytes <= STEP else 1 << (nbytes - 1).bit_length()
    return step, min(ring or max(TURNS * step, min(SHORT_TURNS * step, SHORT)), RING)


@atexit.register
def end() -> None:
    """Tell ranks that wait for this process, or will, that it ends, and by which error.

    MPI lets no process end before the others do, so they would not find it dead.
    """
    error = getattr(sys, "last_value", None)  # what nobody caught
    text = "its program ended" if error is None else named(error)
    for shared in list(OPEN):
        if shared.pids[shared.rank] == os.getpid():  # a fork has no part in it
            shared.leave(text)


def named(error: BaseException) -> str:
    """An error in words."""
    return f"{type(error).__name__}: {error}"


class Shared:
    """The rings of all ranks, and this rank's place in their turn."""

    def __init__(
        self,
        transport: Transport,
        own: Arena,
        piece: Piece,
        members: list[Member],
        processes: Sequence[Attached] = (),
    ) -> None:
        self.transport = transport
        self.rank = transport.rank
        self.size = transport.size
        self.arena = own
        self.piece = piece
        self.ranks = range(self.size)
        self.peers = [q for q in range(self.size) if q != self.rank]
        self.pids = [member.pid for member in members]
        self.names = [member.name for member in members]
        self.processes = processes  # of all ranks; none where they may not read each other
        self.scratch = np.empty(0, np.uint8)
        self.segments = [member.bytes for member in members]
        pieces: list[NDArray[np.uint8]] = [m.bytes[m.start : m.start + SPAN] for m in members]
        self.words = [one[:CONTROL].view(np.int64).data for one in pieces]
        self.others = [self.words[peer] for peer in self.peers]
        self.texts_of = [one[TEXTS:CONTROL] for one in pieces]
        self.rings = [one[CONTROL:] for one in pieces]
        self.views: dict[tuple[np.dtype[Any], int, int], list[Array]] = {}
        # As in MPI, an overflow is a value and no warning. np.errstate would cost a microsecond.
        self.quiet = contextvars.copy_context()
        self.quiet.run(np.seterr, all="ignore")
        self.turn = 0  # the number of the last chunk
        self.recent = (0, 0), (0, 0)  # where in the ring the last two lie
        self.texts = [b"", b""]  # as they stand beside the lines
        self.pace = Pace()
        self.has_told = [False, False]  # places there
        self.results = Results(self.rank, own, self.words, members[0].bytes)
        self.kept: list[object] = []  # what others may still write to after a failure
        OPEN.add(self)

    def close(self) -> None:
        """Give the memory back as soon as no rank looks at it any more."""
        OPEN.discard(self)
        self.results.close()
        self.words[self.rank][FREED] = 1
        CLOSED.append(self)
        sweep()

    def is_over(self) -> bool:
        """Whether all ranks have closed. One that knew it may have used its memory again."""
        return all(
            words[FREED] == 1 or words[NAME] != name
            for words, name in zip(self.words, self.names, strict=True)
        )

    def room(self, nbytes: int, ring: int | None = None) -> int:
        """The place of the next chunk in so much of the ring: clear of the last two."""
        step, limit = strides(nbytes, ring)
        older, newer = self.recent
        place = -(-newer[1] // step) * step
        if place + step > limit:
            place = 0
        for start, stop in (older, newer) if older[0] < newer[0] else (newer, older):
            if start < place + step and place < stop:
                place = -(-stop // step) * step
        self.recent = newer, (place, place + step)
        return place

    def slot(self, ahead: int = 1) -> int:
        """The place of the next chunk of up to SLOT bytes, or of one so many chunks ahead."""
        return RING + (self.turn + ahead) % SLOTS * SLOT

    def begin_anew(self) -> None:
        """Use the ring from its start, where all ranks have come to one chunk and read none."""
        self.recent = (0, 0), (0, 0)

    def viewed(self, dtype: np.dtype[Any], count: int, place: int) -> list[Array]:
        """Elements at one place of the rings of all ranks."""
        views = self.views.get((dtype, count, place))
        if views is None:
            if len(self.views) == VIEWS:
                self.views.clear()
            stop = place + count * dtype.itemsize
            views = [ring[place:stop].view(dtype) for ring in self.rings]
            self.views[dtype, count, place] = views
        return views

    def announce(self, what: Topic, places: tuple[int, ...] = ()) -> int:
        """Say that the next chunk can be read, by a word that is returned.

        `places` tell where this rank's arrays lie, 0 being nowhere, and what else all must know.
        """
        turn = self.turn = self.turn + 1
        slot = turn % 2
        words = self.words[self.rank]
        if self.texts[slot] != what.text:
            self.texts[slot] = what.text
            self.write(slot, what.text)
        line = ANNOUNCED[slot]
        if places or self.has_told[slot]:
            for index in range(PLACES):
                words[line + 1 + index] = places[index] if index < len(places) else 0
            self.has_told[slot] = bool(places)
        # 63 bits. Numbers may wrap, since a line sees every second one.
        word = (turn & 0x7FFFFFFF) << 32 | what.checksum
        words[line] = word  # after all that it announces
        return word

    def places(self, word: int) -> list[tuple[int, ...]]:
        """What every rank told with its announcement of this word."""
        line = ANNOUNCED[word >> 32 & 1]
        return [tuple(words[line + 1 : line + 1 + PLACES]) for words in self.words]

    def first_places(self, word: int) -> list[int]:
        """The first number that every rank told with its announcement of this word."""
        line = ANNOUNCED[word >> 32 & 1] + 1
        return [words[line] for words in self.words]

    def finish(self, word: int) -> None:
        """Say that this rank's part of the chunk is done."""
        self.words[self.rank][DONE[word >> 32 & 1]] = word

    def is_announced(self, word: int) -> bool:
        """Whether all ranks have announced this very chunk."""
        line = ANNOUNCED[word >> 32 & 1]
        for words in self.others:  # noqa: SIM110, a generator takes three times as long
            if words[line] != word:
                return False
        return True

    def comes(self, word: int) -> bool:
        """Whether all ranks announce the chunk before long; in between, others may have the core.

        A coroutine's way to wait takes longer than most waits do.
        """
        yields = self.transport.looks == 1
        for _ in range(YIELDS if yields else LOOKS):
            if self.is_announced(word):
                return True
            if yields:
                self.transport.pause(0)
        return False

    async def announced(self, word: int, what: str) -> None:
        """Go on when all ranks have announced the chunk; MismatchError if it is another's."""
        if self.is_announced(word):
            return
        line = ANNOUNCED[word >> 32 & 1]
        others = [peer for peer in self.peers if self.words[peer][line] != word]
        for peer in others:
            await until(self.arrival(peer, line, word, what))
        for peer in others:
            if self.words[peer][line] != word:
                self.differ(peer, word)

    async def done(self, peer: int, word: int, what: str) -> None:
        """Go on when a peer's part of the chunk is done."""
        line = DONE[word >> 32 & 1]
        if self.words[peer][line] != word:
            await until(self.arrival(peer, line, word, what))

    async def agree(self, what: Topic, call: str) -> None:
        """Wait for all ranks to call; MismatchError where one calls something else."""
        await self.announced(self.announce(what), call)

    async def tell(self, text: bytes, call: str) -> list[bytes] | None:
        """The texts of all ranks in one call; None where one is too long."""
        padded = text[:TEXT].ljust(TEXT, b"\0")
        word = self.announce(Topic(padded, zlib.crc32(call.encode())))
        await self.announced(word, call)
        slot = word >> 32 & 1
        texts = [self.texts_of[q][slot * TEXT : (slot + 1) * TEXT].tobytes() for q in self.ranks]
        return None if any(one[-1] for one in texts) else [one.rstrip(b"\0") for one in texts]

    def arrival(self, peer: int, line: int, word: int, what: str) -> Wait:
        """The wait for a peer to come to the chunk of this word, whatever it has there."""
        words, turn, pid = self.words[peer], word >> 32, self.pids[peer]

        def ready() -> bool:
            seen = words[line]
            if seen == BROKEN:
                raise CollectiveError(f"rank {peer} gave up: {self.read(peer, turn & 1)}")
            return seen >> 32 == turn

        def look_after() -> None:
            self.transport.progress()  # others may wait for messages
            # It may have ended right after its part.
            if not is_alive(pid) and words[line] >> 32 != turn:
                raise RankFailure(f"rank {peer} (process {pid}) ended in a call of {what}")

        return Wait(
            ready,
            lambda: f"rank {self.rank} of {self.size} has waited for rank {peer} in {what}",
            look_after,
        )

    def differ(self, peer: int, word: int) -> NoReturn:
        """Say what a peer has that this rank has not.

        All ranks have come to the chunk, and read nothing of it; after it all begin at one place.
        """
        self.begin_anew()
        mine, theirs = (self.read(rank, word >> 32 & 1) for rank in (self.rank, peer))
        raise MismatchError(f"rank {self.rank} calls {mine}, but rank {peer} calls {theirs}")

    def fetch(self, peer: int, there: int, here: int, nbytes: int, what: str) -> None:
        """Read what lies in a peer's own memory; RankFailure where it is gone with the peer."""
        try:
            self.processes[peer].read(there, here, nbytes)
        except OSError as error:
            raise RankFailure(
                f"rank {peer} (process {self.pids[peer]}) ended in a call of {what}"
            ) from error

    def desk(self, nbytes: int) -> NDArray[np.uint8]:
        """So many bytes to work on; the same memory in every call."""
        if self.scratch.size < nbytes:
            self.scratch = np.empty(nbytes, np.uint8)
        return self.scratch[:nbytes]

    def place(self, x: Array) -> int:
        """Where an array begins in this rank's segment; 0, which no array has, if elsewhere."""
        return self.arena.place(x) if self.arena.lends else 0

    def at(self, rank: int, place: int, dtype: np.dtype[Any], count: int) -> Array:
        """Elements at a place of a rank's segment."""
        found: Array = self.segments[rank][place : place + count * dtype.itemsize].view(dtype)
        return found

    def write(self, slot: int, text: bytes) -> None:
        self.texts_of[self.rank][slot * TEXT : (slot + 1) * TEXT] = np.frombuffer(text, np.uint8)

    def read(self, rank: int, slot: int) -> str:
        text: bytes = self.texts_of[rank][slot * TEXT : (slot + 1) * TEXT].tobytes()
        return text.rstrip(b"\0").decode()

    def leave(self, reason: str) -> None:
        """Tell whoever waits for this rank that it will not come. A second reason is not heard."""
        if self not in OPEN:
            return
        OPEN.discard(self)
        text = topic(reason).text
        words, now = self.words[self.rank], self.turn & 0x7FFFFFFF
        for slot in range(2):
            self.write(slot, text)
        for line in (*ANNOUNCED, *DONE):
            if words[line] >> 32 != now:  # what is done may still be read
                words[line] = BROKEN
