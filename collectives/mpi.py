"""The transport over MPI: non-blocking messages of bytes, through mpi4py.

This is the one module that imports MPI at its top; a communicator imports it when it is made.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from .errors import CollectiveError, MismatchError
from .transport import Bytes, Requests
from .waiting import Patience, Wait, until

LOOKS = 200  # some 20 us
CROWDED_LOOKS = 1  # where there are more ranks than cores
LARGEST_MESSAGE = 1 << 30  # MPI counts are 32 bits wide below MPI 4; longer messages are split


@dataclass(eq=False)
class Landing:
    """Where a message goes, or a part of one, once it has come."""

    data: Bytes
    before: Landing | None
    """the part before, of which this is the rest"""
    message: MPI.Message | None = None
    length: int = 0

    @property
    def is_short(self) -> bool:
        return self.message is not None and self.length < self.data.nbytes


class MpiTransport:
    """Bytes over a communicator of MPI that nobody else uses."""

    has_processes = True

    def __init__(
        self, comm: MPI.Intracomm, patience: Patience, node_ranks: tuple[int, ...]
    ) -> None:
        """Take over `comm`: free() frees it."""
        self.comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()
        self.bytes_sent = 0
        self.patience = patience
        self.node_ranks = node_ranks
        is_crowded = len(node_ranks) > (os.cpu_count() or 1)
        self.looks = CROWDED_LOOKS if is_crowded else LOOKS
        self.is_threaded = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self.abandoned = False
        self.queues: dict[tuple[int, int], deque[Landing]] = {}  # by peer and tag
        largest = comm.Get_attr(MPI.TAG_UB)
        self.largest_tag = 32767 if largest is None else int(largest)

    def isend(self, data: Bytes, peer: int, tag: int) -> Requests:
        self.bytes_sent += data.nbytes
        if data.nbytes <= LARGEST_MESSAGE:
            return [self.comm.Isend((data, MPI.BYTE), peer, tag)]
        return [self.comm.Isend((part, MPI.BYTE), peer, tag) for part in parts(data)]

    def irecv(self, data: Bytes, peer: int, tag: int) -> Requests:
        if data.nbytes <= LARGEST_MESSAGE:
            return [self.comm.Irecv((data, MPI.BYTE), peer, tag)]
        return [self.comm.Irecv((part, MPI.BYTE), peer, tag) for part in parts(data)]

    def pending(self, requests: Requests, peers: Sequence[int]) -> Wait:
        def ready() -> bool:
            try:
                return bool(MPI.Request.Testall(requests))
            except MPI.Exception as error:
                raise explained(error, self.rank, peers) from error

        return Wait(ready, lambda: self.waiting(peers))

    async def receive(self, data: Bytes, peer: int, tag: int) -> int:
        queue = self.queues.setdefault((peer, tag), deque())
        landings: list[Landing] = []
        for part in parts(data):
            landings.append(Landing(part, landings[-1] if landings else None))
        queue.extend(landings)
        try:
            for landing in landings:
                ready = functools.partial(self.has_come, landing, queue, peer, tag)
                await until(Wait(ready, lambda: self.waiting([peer])))
                await self.take(landing, peer)
                if landing.is_short:
                    break
            return sum(landing.length for landing in landings)
        finally:
            for landing in landings:
                if landing in queue:
                    queue.remove(landing)

    def has_come(self, landing: Landing, queue: deque[Landing], peer: int, tag: int) -> bool:
        """Give messages to those that wait for them, in turn; whether this one has its own."""
        status = MPI.Status()
        while landing.message is None and queue:
            if queue[0].before is not None and queue[0].before.is_short:
                queue.popleft()  # of a message that was expected to be longer
                continue
            message = self.comm.Improbe(peer, tag, status)
            if message is None:
                break
            first = queue.popleft()
            first.message, first.length = message, status.Get_count(MPI.BYTE)
        return landing.message is not None

    async def take(self, landing: Landing, peer: int) -> None:
        """Receive a message that has come; MismatchError if it is too long."""
        assert landing.message is not None
        room = landing.data.nbytes
        is_longer = landing.length > room
        # Open MPI would write a longer one beyond its array.
        target = np.empty(landing.length, np.uint8) if is_longer else landing.data
        requests: Requests = [landing.message.Irecv((target[: landing.length], MPI.BYTE))]
        try:
            await until(self.pending(requests, (peer,)))
        except BaseException:
            self.abandon(requests)
            raise
        if is_longer:
            raise MismatchError(
                f"rank {self.rank} got a longer message from rank {peer} than expected: "
                f"{landing.length} bytes for {room}"
            )

    def waiting(self, peers: Sequence[int]) -> str:
        return f"rank {self.rank} of {self.size} has waited for {named(peers)}"

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)
        else:
            os.sched_yield()

    def progress(self) -> None:
        self.comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)

    def group(self, ranks: tuple[int, ...]) -> MpiTransport:
        everyone = self.comm.Get_group()
        chosen = everyone.Incl(ranks)
        try:
            here = tuple(i for i, rank in enumerate(ranks) if rank in self.node_ranks)
            return MpiTransport(self.comm.Create_group(chosen), self.patience, here)
        finally:
            chosen.Free()
            everyone.Free()

    def abandon(self, requests: Requests) -> None:
        self.abandoned = True
        ABANDONED.extend(requests)

    def free(self) -> None:
        # With requests under way MPI could wait in here for ever, or free what they use.
        if not self.abandoned:
            self.comm.Free()

    def abort(self, code: int) -> None:
        MPI.COMM_WORLD.Abort(code)


# Requests hold their buffers. These never completed, so MPI may still write into them.
ABANDONED: Requests = []


def duplicate(comm: object, patience: Patience) -> MpiTransport:
    """A transport over a duplicate of `comm`, or of the world. Collective."""
    if comm is None:
        comm = MPI.COMM_WORLD
    if not isinstance(comm, MPI.Intracomm):
        raise ValueError(f"expected an intracommunicator, got {comm!r}")
    if comm == MPI.COMM_NULL:
        raise ValueError("expected a communicator that this rank is part of, got MPI.COMM_NULL")
    own = comm.Dup()
    return MpiTransport(own, patience, ranks_here(own))


def ranks_here(comm: MPI.Intracomm) -> tuple[int, ...]:
    """The ranks of this rank's node. Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    mine, everyone = node.Get_group(), comm.Get_group()
    try:
        return tuple(mine.Translate_ranks(None, everyone))
    finally:
        mine.Free()
        everyone.Free()
        node.Free()


def parts(data: Bytes) -> list[Bytes]:
    """Cut a message into pieces whose length MPI can count; at least one, also of nothing."""
    starts = range(0, max(data.nbytes, 1), LARGEST_MESSAGE)
    return [data[start : start + LARGEST_MESSAGE] for start in starts]


def named(peers: Sequence[int]) -> str:
    """Ranks in words."""
    unique = sorted(set(peers))
    return f"rank{'s' if len(unique) > 1 else ''} {', '.join(map(str, unique))}"


def explained(error: MPI.Exception, rank: int, peers: Sequence[int]) -> CollectiveError:
    """Our error for one of MPI's."""
    if error.Get_error_class() in (MPI.ERR_TRUNCATE, MPI.ERR_IN_STATUS):
        return MismatchError(f"rank {rank} got a longer message from {named(peers)} than expected")
    return CollectiveError(f"rank {rank}, with {named(peers)}: {error.Get_error_string()}")
