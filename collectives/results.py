"""Results that the ranks of a node refer to, in the memory of rank 0.

Each rank says by a word for each result whether it still does, and rank 0 uses none again before
nobody does.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arena import Arena, Piece
from .control import HELD, HOLDS

Array = NDArray[Any]


class Results:
    """As one rank sees them: the control words of all ranks, and rank 0's segment."""

    def __init__(
        self, rank: int, own: Arena, words: Sequence[memoryview], segment: NDArray[np.uint8]
    ) -> None:
        self.rank = rank
        self.arena = own
        self.words = words
        self.memory: Any = segment.base  # that is no view of an array
        self.pieces: dict[int, Piece] = {}  # of rank 0
        self.holds: dict[int, weakref.ref[Array]] = {}  # of this rank, by result
        self.is_closed = False

    def close(self) -> None:
        """Give back what nobody refers to, and say no more who does."""
        for slot, piece in self.pieces.items():
            if not any(words[HELD + slot] for words in self.words):
                self.arena.returned.append(piece)
        self.is_closed = True

    def vacancy(self, nbytes: int) -> tuple[int, int]:
        """A number of a result that nobody refers to, and where it may lie; (0, 0) if none is."""
        for slot in range(HELD, HELD + HOLDS):
            for words in self.words:
                if words[slot]:
                    break
            else:
                return self.prepared(slot - HELD, nbytes)
        return 0, 0

    def prepared(self, slot: int, nbytes: int) -> tuple[int, int]:
        """A number, and its place with room for so many bytes; (0, 0) if there is none."""
        piece = self.pieces.get(slot)
        if piece is None or piece.stop - piece.start < nbytes:
            if piece is not None:
                self.arena.returned.append(self.pieces.pop(slot))
            piece = self.arena.take(nbytes)
            if piece is None:
                return 0, 0
            self.pieces[slot] = piece
        return slot, piece.start

    def held(self, slot: int, place: int, nbytes: int) -> NDArray[np.uint8]:
        """A result in the memory of rank 0, which stays as long as something refers to it."""
        words = self.words[self.rank]
        words[HELD + slot] = 1
        owner = np.frombuffer(self.memory, np.uint8, nbytes, place)

        def release(_: object) -> None:
            if not self.is_closed:  # or the words may be another's
                words[HELD + slot] = 0

        self.holds[slot] = weakref.ref(owner, release)
        return owner
