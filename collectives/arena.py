"""Memory of this process that others of the node can map: one segment, given out in pieces.

The segment spans as much as the machine has, and holds only the pages that were written. Pieces
come back when the arrays on them are gone, and keep their pages up to a limit.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from bisect import insort
from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .segment import created

Array = NDArray[Any]

PAGE = 4096
KEPT = 256 << 20  # bytes of free pieces that keep their pages
ADDRESSES = 1 << 45  # of virtual memory, for the segments of all ranks of a node together


class Piece(NamedTuple):
    """Bytes of the segment."""

    start: int
    stop: int


class Arena:
    """The segment, what of it is free, and where it lies."""

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self.pid = os.getpid()
        self.fd = fd  # stays open, for those who come later
        self.memory = memory
        self.token = int.from_bytes(memory[:8], "little")
        self.bytes = np.frombuffer(memory, np.uint8)
        self.address = int(self.bytes.ctypes.data)
        self.free = [Piece(PAGE, len(memory) // PAGE * PAGE)]
        self.returned: deque[Piece] = deque()  # a finalizer may come at any time, in any thread
        self.kept = 0
        self.lends = False  # whether any array was ever made here
        self.lock = threading.Lock()

    def take(self, nbytes: int) -> Piece | None:
        """The first free piece that is long enough; None if there is none."""
        length = -(-max(nbytes, 1) // PAGE) * PAGE
        with self.lock:
            self.absorb()
            for index, (start, stop) in enumerate(self.free):
                if stop - start >= length:
                    self.free[index : index + 1] = (
                        [Piece(start + length, stop)] if start + length < stop else []
                    )
                    self.kept = max(0, self.kept - length)
                    return Piece(start, start + length)
        return None

    def absorb(self) -> None:
        """Take back what has been returned."""
        while self.returned:
            piece = self.returned.popleft()
            self.kept += piece.stop - piece.start
            if self.kept > KEPT:
                self.memory.madvise(mmap.MADV_REMOVE, piece.start, piece.stop - piece.start)
                self.kept -= piece.stop - piece.start
            insort(self.free, piece)
            at = self.free.index(piece)
            for left in (at, at - 1):  # join it with its neighbours
                if 0 <= left < len(self.free) - 1:
                    a, b = self.free[left], self.free[left + 1]
                    if a.stop == b.start:
                        self.free[left : left + 2] = [Piece(a.start, b.stop)]

    def empty(self, nbytes: int) -> NDArray[np.uint8] | None:
        """So many bytes, which come back when nothing refers to them; None if there is no room."""
        piece = self.take(nbytes)
        if piece is None:
            return None
        self.lends = True
        owner = np.frombuffer(self.memory, np.uint8, nbytes, piece.start)
        weakref.finalize(owner, self.returned.append, piece).atexit = False
        return owner

    def copied(self, x: Array) -> Array:
        """A copy of an array in the segment."""
        found = self.empty(x.nbytes)
        if found is None:
            raise MemoryError(f"expected room for {x.nbytes} bytes of shared memory, got none")
        copy: Array = found.view(x.dtype)
        copy[...] = x
        return copy

    def place(self, x: Array) -> int:
        """Where an array begins in the segment, which is never 0; 0 if it lies elsewhere."""
        offset: int = x.__array_interface__["data"][0] - self.address
        return offset if 0 < offset < self.bytes.size else 0


ARENA: Arena | None = None
LOCK = threading.Lock()


def arena() -> Arena | None:
    """The arena of this process; None where the system refuses one."""
    global ARENA
    with LOCK:
        if ARENA is None or ARENA.pid != os.getpid():  # a fork has its own
            fd, memory = created(span())
            if memory is None:
                return None
            ARENA = Arena(fd, memory)
        return ARENA


def span() -> int:
    """The bytes of a segment: all memory of the machine, if the addresses suffice."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, ADDRESSES // (os.cpu_count() or 1)) // PAGE * PAGE
