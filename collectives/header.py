"""What ranks tell each other about arrays before they move them: dtype and shape, as text.

Where ranks share memory a text stands beside the word that announces a call. As a message it is
padded to CELL bytes, so that one small collective carries it; the rest of a longer one (a
structured dtype of many fields) follows in a second.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .blocks import even, offsets
from .errors import MismatchError

if TYPE_CHECKING:
    from .engine import Engine

CELL = 128
LENGTH = 8  # of which the first bytes hold the length of the text
ROOM = CELL - LENGTH


class Header(NamedTuple):
    """An array without its elements."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@functools.lru_cache(maxsize=1024)
def encoded(header: Header) -> bytes:
    """The text of a header."""
    dtype, shape = header
    if dtype.type.__module__ == "ml_dtypes":  # numpy writes them as raw bytes, or not at all
        descr: object = dtype.name
    else:
        descr = np.lib.format.dtype_to_descr(dtype)
    return repr((descr, shape)).encode()


@functools.lru_cache(maxsize=1024)
def decoded(text: bytes) -> Header:
    """The inverse of `encoded`."""
    descr, shape = ast.literal_eval(text.decode())
    extra = getattr(ml_dtypes, descr, None) if isinstance(descr, str) else None
    dtype = np.lib.format.descr_to_dtype(descr) if extra is None else np.dtype(extra)
    return Header(dtype, shape)


async def gathered(comm: Engine, call: str, mine: Header) -> list[Header]:
    """The headers of all ranks, by rank."""
    text = encoded(mine)
    texts = await told(comm, call, text)
    if texts is not None:
        return [decoded(text) for text in texts]
    cells = np.empty(comm.size * CELL, np.uint8)
    cells[comm.rank * CELL : (comm.rank + 1) * CELL] = cell(text)
    await comm._move("allgather", cells, offsets((CELL,) * comm.size))
    firsts = [cells[i : i + CELL].tobytes() for i in range(0, cells.size, CELL)]
    where = offsets([missing(first) for first in firsts])
    rests = np.empty(where[-1], np.uint8)
    rests[where[comm.rank] : where[comm.rank + 1]] = np.frombuffer(text[ROOM:], np.uint8)
    await comm._move("allgather", rests, where)
    ends = itertools.pairwise(where)
    return [
        joined(first, rests[a:b].tobytes()) for first, (a, b) in zip(firsts, ends, strict=True)
    ]


async def announced(comm: Engine, call: str, x: NDArray[Any] | None, root: int) -> Header:
    """The header of the root's array, for everyone; x is None away from root."""
    text = b"" if x is None else encoded(Header(x.dtype, x.shape))
    texts = await told(comm, call, text)
    if texts is not None:
        return decoded(texts[root])
    first = cell(text).copy()
    await comm._move("broadcast", first, even(CELL, comm.size), root)
    rest = np.empty(missing(first.tobytes()), np.uint8)
    if x is not None:
        rest[:] = np.frombuffer(text[ROOM:], np.uint8)
    await comm._move("broadcast", rest, even(rest.size, comm.size), root)
    return joined(first.tobytes(), rest.tobytes())


async def told(comm: Engine, call: str, text: bytes) -> list[bytes] | None:
    """The texts of all ranks, through memory that they share; None if one has no room there."""
    if comm._shared is None:
        return None
    before = f"{call} of ".encode()
    texts = await comm._guarded(comm._shared.tell(before + text, call))
    return None if texts is None else [one.removeprefix(before) for one in texts]


def cell(text: bytes) -> NDArray[np.uint8]:
    """The length of a text, and as much of it as has room."""
    start = len(text).to_bytes(LENGTH, "little") + text[:ROOM]
    return np.frombuffer(start.ljust(CELL, b"\0"), np.uint8)


def missing(first: bytes) -> int:
    """The bytes of a text that had no room in its cell."""
    return max(0, int.from_bytes(first[:LENGTH], "little") - ROOM)


def joined(first: bytes, rest: bytes) -> Header:
    """The header whose text is in a cell and a rest."""
    length = int.from_bytes(first[:LENGTH], "little")
    return decoded(first[LENGTH : LENGTH + length] + rest)


def agree(call: str, headers: Sequence[Header], free: Sequence[int] = ()) -> None:
    """Raise MismatchError unless dtypes, and shapes but for the dims that are free, are equal.

    Every rank has all headers, so every rank raises the same error.
    """
    for rank, header in enumerate(headers):
        if comparable(header, free) != comparable(headers[0], free):
            raise MismatchError(
                f"{call}: rank 0 has {headers[0]}, but rank {rank} has {header}; expected equal "
                f"dtypes and shapes" + (f" but for dim {free[0]}" if free else "")
            )


def comparable(header: Header, free: Sequence[int]) -> object:
    """A header with the free dims left out."""
    ndim = len(header.shape)
    ignored = {dim % ndim for dim in free if -ndim <= dim < ndim}
    return header.dtype, [-1 if d in ignored else n for d, n in enumerate(header.shape)]


def but_for(x: NDArray[Any], dim: int) -> str:
    """The header of an array as text, with the length of a dim left open."""
    shape = ("*" if d in (dim, dim + x.ndim) else str(n) for d, n in enumerate(x.shape))
    return f"{x.dtype} ({', '.join(shape)})"
