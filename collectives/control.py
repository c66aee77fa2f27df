"""The control lines of a rank in shared memory: what stands where, and what a call is about."""

from __future__ import annotations

import functools
import zlib
from typing import NamedTuple

CONTROL = 4096  # bytes, before the ring
LINE = 8  # words of one cache line
TEXT = 256  # bytes that say what a call is, one text for each pair of lines
TEXTS = 1024  # where they begin
ANNOUNCED, DONE = (LINE, 2 * LINE), (3 * LINE, 4 * LINE)  # words, by turn
PLACES = 4  # words behind a word of ANNOUNCED
NAME, FREED = 5 * LINE, 5 * LINE + 1  # words: of a piece's use, and whether the rank has left it
HELD = 6 * LINE  # the first of the words that say which results are referred to
HOLDS = 64  # of them
BROKEN = -1  # in place of a word: this rank has left the group


class Topic(NamedTuple):
    """What a call is about: a text to compare with those of other ranks."""

    text: bytes  # cut or padded to TEXT
    checksum: int  # of all of it


@functools.lru_cache(maxsize=1024)
def topic(text: str) -> Topic:
    """The topic of this text."""
    encoded = text.encode()
    return Topic(encoded[:TEXT].ljust(TEXT, b"\0"), zlib.crc32(encoded))
