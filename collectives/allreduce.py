"""allreduce through shared memory: every rank reads the others' operands where they lie.

The schedules are in algorithms/shared.py, where they are proved and counted. Here is the code that
runs them, chunk by chunk: a round is a store of one word and a look at another, of which Python
leaves room for few.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .attach import address
from .blocks import Offsets, even
from .control import Topic, topic
from .native import Native
from .pace import STRIDES, Stride
from .reduction import Reduction
from .shared import CHUNK, RING, SLOT, SLOTS, Shared
from .waiting import finish

Array = NDArray[Any]

CALL = "allreduce"
FETCHED = 1 << 20  # bytes that are read of another process at a time


class Plan(NamedTuple):
    """What is known of an allreduce of one operation, algorithm, dtype and shape."""

    how: Reduction
    name: str
    what: Topic | None
    """of algorithms in shared memory"""
    native: Native | None
    """MPI's call, where ranks need not compare theirs before"""
    is_chunk: bool
    """it is one chunk of one_shot's"""
    slots: list[list[Array]] | None
    """where the chunks of all ranks lie by turn, if they are short"""


@functools.lru_cache(maxsize=1024)
def described(name: str, op: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Topic:
    """The topic of one rank's call."""
    return topic(f"{CALL} {op} by {name} of {dtype} {shape}")


async def one_shot(
    shared: Shared, what: Topic, x: Array, out: Array, how: Reduction, call: str = CALL
) -> None:
    """Everyone copies all in, and combines what all have, in the order of ranks.

    x and out are flat and alike, and may be one array. A function of the caller's must get them in
    one chunk. For p ranks and n bytes: n stored for others, (p - 1) n loaded from them.
    """
    shared.transport.bytes_sent += x.nbytes
    length = chunk(x.size, x.itemsize)
    for mine, into in zip(cut(x, length), cut(out, length), strict=True):
        word, operands = laid_open(shared, what, mine)
        await shared.announced(word, call)
        if not how.elementwise:  # the caller's function may write into what others still read
            operands = [operand.copy() for operand in operands]
        shared.quiet.run(how.many, operands, into)


def laid_open(shared: Shared, what: Topic, mine: Array) -> tuple[int, list[Array]]:
    """Copy a chunk in and announce it; the word, and the chunks of all ranks."""
    place = shared.slot() if mine.nbytes <= SLOT else shared.room(mine.nbytes)
    operands = shared.viewed(mine.dtype, mine.size, place)
    operands[shared.rank][...] = mine
    return shared.announce(what), operands


def slots(shared: Shared, x: Array) -> list[list[Array]]:
    """Where short arrays of this kind lie in turn, those of all ranks."""
    places = [RING + slot * SLOT for slot in range(SLOTS)]
    chunks = [shared.viewed(x.dtype, x.size, place) for place in places]
    return [[chunk.reshape(x.shape) for chunk in of_all] for of_all in chunks]


def one_chunk(shared: Shared, plan: Plan, x: Array, out: Array) -> None:
    """one_shot of one chunk, which is not handed from coroutine to coroutine.

    They would take longer than all of a short one. x and out have the shape of the plan.
    """
    assert plan.what is not None  # since it goes through memory
    shared.transport.bytes_sent += x.nbytes
    if plan.slots is None:
        word, operands = laid_open(shared, plan.what, x.reshape(-1))
    else:
        operands = plan.slots[(shared.turn + 1) % SLOTS]
        operands[shared.rank][...] = x
        word = shared.announce(plan.what)
    if not shared.comes(word):
        finish(shared.announced(word, CALL), shared.transport)
    if plan.slots is None:
        shared.quiet.run(plan.how.many, operands, out.reshape(-1))
        return
    combine, (total, *others) = plan.how.function, operands
    for operand in others:
        shared.quiet.run(combine, total, operand, out=out)
        total = out


async def two_shot(shared: Shared, what: Topic, x: Array, out: Array, how: Reduction) -> None:
    """Everyone combines its slice, and copies the slices of others out.

    A rank's own slice of x is never copied in; in the ring its place is the result's. The next
    chunk is copied in before this one's results are awaited. For p ranks and n bytes: n stored for
    others, 2 (p - 1)/p n loaded from them.
    """
    shared.transport.bytes_sent += x.nbytes
    places = shared.place(x), shared.place(out)
    if all(places):
        word = shared.announce(what, places)
        await shared.announced(word, CALL)
        told = shared.places(word)
        if all(theirs and into for theirs, into, *_ in told):
            await pushed(shared, word, told, out, how)
            return
        shared.begin_anew()  # the others have taken room in the ring
    rank = shared.rank
    is_long, way = x.nbytes > CHUNK, shared.pace.way
    stride = shared.pace.stride if is_long else STRIDES[0]
    length = chunk(x.size, x.itemsize, stride.part)
    chunks = cut(x, length)
    tells = (0, 0, 0, shared.pace.following() + 1) if is_long and rank == 0 else ()
    word, views = load(shared, what, chunks[0], length, stride, tells)
    await shared.announced(word, CALL)
    if not all(places) and any(shared.first_places(word)):
        shared.begin_anew()  # with those who have nothing in the ring
        word, views = load(shared, what, chunks[0], length, stride, tells)
        await shared.announced(word, CALL)
    if is_long:
        shared.pace.way = shared.places(word)[0][3] - 1
    started = time.perf_counter()
    for mine, into, following in itertools.zip_longest(chunks, cut(out, length), chunks[1:]):
        await shared.announced(word, CALL)
        where = slices(mine.size, length, shared.size)
        a, b = where[rank], where[rank + 1]
        operands = [mine[a:b] if q == rank else view[a:b] for q, view in enumerate(views)]
        shared.quiet.run(how.many, operands, into[a:b], [views[rank][a:b]])
        shared.finish(word)
        done, results = word, views
        if following is not None:
            word, views = load(shared, what, following, length, stride)
        for q in (*shared.peers[rank:], *shared.peers[:rank]):  # each rank begins with another
            await shared.done(q, done, CALL)
            into[where[q] : where[q + 1]] = results[q][where[q] : where[q + 1]]
    if is_long:
        shared.pace.took(way, x.nbytes, time.perf_counter() - started)


async def single_copy(shared: Shared, what: Topic, x: Array, out: Array, how: Reduction) -> None:
    """Everyone combines its slice of what lies in the memory of all, and reads others' results.

    Nobody goes on before all have read. For p ranks and n bytes: 2 (p - 1)/p n loaded.
    """
    rank, peers = shared.rank, shared.peers
    into = address(out)
    word = shared.announce(what, (shared.place(x), shared.place(out), address(x), into))
    try:
        await shared.announced(word, CALL)
        told = shared.places(word)
        if all(theirs and back for theirs, back, *_ in told):
            shared.transport.bytes_sent += x.nbytes
            await pushed(shared, word, told, out, how)
            return
        where = even(x.size, shared.size)
        shared.transport.bytes_sent += x.nbytes + (shared.size - 2) * out[own(where, rank)].nbytes
        combined(shared, [theirs for _, _, theirs, _ in told], x, out, own(where, rank), how)
        shared.finish(word)
        for q in (*peers[rank:], *peers[:rank]):  # each rank begins with another
            begin, end = where[q] * x.itemsize, where[q + 1] * x.itemsize
            await shared.done(q, word, CALL)
            shared.fetch(q, told[q][3] + begin, into + begin, end - begin, CALL)
        await shared.announced(shared.announce(what), CALL)
    except BaseException:
        shared.kept.append((x, out))  # others may still read it
        raise


def own(where: Offsets, rank: int) -> slice:
    """A rank's block."""
    return slice(where[rank], where[rank + 1])


def combined(
    shared: Shared, addresses: list[int], x: Array, out: Array, block: slice, how: Reduction
) -> None:
    """Combine a block of what lies at the addresses of all ranks, here in x, tile by tile."""
    itemsize, peers = out.itemsize, shared.peers
    length = min(block.stop - block.start, FETCHED // itemsize) or 1
    rooms = shared.desk(len(peers) * length * itemsize).view(out.dtype)
    here = address(rooms)
    for start in range(block.start, block.stop, length):
        tile = slice(start, min(start + length, block.stop))
        count = tile.stop - start
        operands = []
        for index, q in enumerate(peers):
            room = index * length
            operands.append(rooms[room : room + count])
            there = addresses[q] + start * itemsize
            shared.fetch(q, there, here + room * itemsize, count * itemsize, CALL)
        operands.insert(shared.rank, x[tile])
        shared.quiet.run(how.many, operands, out[tile])


async def pushed(
    shared: Shared, word: int, told: list[tuple[int, ...]], out: Array, how: Reduction
) -> None:
    """Everyone combines its slice where the operands lie, and stores it where the results lie.

    For p ranks and n bytes: n loaded and n stored by every rank, which is the least possible.
    """
    rank, count, dtype = shared.rank, out.size, out.dtype
    a, b = even(count, shared.size)[rank : rank + 2]
    operands = [shared.at(q, told[q][0], dtype, count)[a:b] for q in range(shared.size)]
    results = [shared.at(q, told[q][1], dtype, count)[a:b] for q in shared.peers]
    shared.quiet.run(how.many, operands, out[a:b], results)
    shared.finish(word)
    try:
        for q in shared.peers:
            await shared.done(q, word, CALL)
    except BaseException:
        shared.kept.append(out)  # others may still write to it
        raise


async def viewed(shared: Shared, what: Topic, x: Array, how: Reduction) -> Array | None:
    """Everyone combines its slice into memory of rank 0, of which all get a view.

    None, on all ranks, where rank 0 has no room. For p ranks and n bytes: n loaded and n/p stored
    by every rank.
    """
    shared.transport.bytes_sent += x.nbytes
    if not shared.place(x):
        x = shared.arena.copied(x)
    slot, place = shared.results.vacancy(x.nbytes) if shared.rank == 0 else (0, 0)
    word = shared.announce(what, (shared.place(x), place, slot))
    await shared.announced(word, CALL)
    told = shared.places(word)
    _, place, slot, *_ = told[0]
    if not place:
        return None
    rank, count, dtype = shared.rank, x.size, x.dtype
    result = shared.results.held(slot, place, x.nbytes).view(dtype)
    a, b = even(count, shared.size)[rank : rank + 2]
    operands = [shared.at(q, told[q][0], dtype, count)[a:b] for q in range(shared.size)]
    shared.quiet.run(how.many, operands, result[a:b])
    if how.finish is not None:
        how.finish(result[a:b], shared.size)
    shared.finish(word)
    for q in shared.peers:
        await shared.done(q, word, CALL)
    return result


def load(
    shared: Shared,
    what: Topic,
    x: Array,
    length: int,
    stride: Stride,
    tells: tuple[int, ...] = (),
) -> tuple[int, list[Array]]:
    """Copy in what others combine, and announce it; the word, and the chunks of all ranks."""
    where = slices(x.size, length, shared.size)
    a, b = where[shared.rank], where[shared.rank + 1]
    views = shared.viewed(x.dtype, x.size, shared.room(x.nbytes, stride.ring))
    own = views[shared.rank]
    own[:a] = x[:a]
    own[b:] = x[b:]
    return shared.announce(what, tells), views


@functools.lru_cache(maxsize=256)
def chunk(count: int, itemsize: int, part: int = CHUNK) -> int:
    """Elements of a chunk, when so many are cut into chunks of one length."""
    chunks = max(1, -(-count // max(1, part // itemsize)))
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
