"""The transport over MPI: non-blocking messages of bytes, through mpi4py.

This module and inbox.py import MPI at their top; a communicator imports them when it is made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

from . import inbox
from .errors import CollectiveError, MismatchError
from .inbox import INBOX, Landing, parts
from .transport import Bytes, Requests
from .waiting import Patience, Wait, until

LOOKS = 200  # some 20 us
CROWDED_LOOKS = 1  # where there are more ranks than cores


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
        largest = comm.Get_attr(MPI.TAG_UB)
        self.largest_tag = 32767 if largest is None else int(largest)

    def isend(self, data: Bytes, peer: int, tag: int) -> Requests:
        self.bytes_sent += data.nbytes
        if data.nbytes < inbox.LARGEST_MESSAGE:
            return [self.comm.Isend((data, MPI.BYTE), peer, tag)]
        return [self.comm.Isend((part, MPI.BYTE), peer, tag) for part in parts(data)]

    def irecv(self, data: Bytes, peer: int, tag: int) -> Requests:
        if data.nbytes < inbox.LARGEST_MESSAGE:
            return [self.comm.Irecv((data, MPI.BYTE), peer, tag)]
        return [self.comm.Irecv((part, MPI.BYTE), peer, tag) for part in parts(data)]

    def pending(self, requests: Requests, peers: Sequence[int]) -> Wait:
        return self.wait(lambda: bool(MPI.Request.Testall(requests)), peers)

    async def receive(self, data: Bytes, peer: int, tag: int) -> int:
        landing = Landing(self.comm, peer, tag, data)
        INBOX.expect(landing)
        try:
            await until(self.wait(landing.has_come, (peer,)))
        except BaseException:
            INBOX.withdraw(landing)
            self.abandon(landing.requests)
            raise
        return landing.length

    def wait(self, is_over: Callable[[], bool], peers: Sequence[int]) -> Wait:
        """The end of messages from or to these ranks."""

        def ready() -> bool:
            if INBOX.landings:
                INBOX.look()
            try:
                return is_over()
            except MPI.Exception as error:
                raise explained(error, self.rank, peers) from error

        return Wait(ready, lambda: self.waiting(peers))

    def waiting(self, peers: Sequence[int]) -> str:
        return f"rank {self.rank} of {self.size} has waited for {named(peers)}"

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)
        else:
            os.sched_yield()

    def progress(self) -> None:
        self.comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
        INBOX.look()

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
        INBOX.close(self.comm)
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


def named(peers: Sequence[int]) -> str:
    """Ranks in words."""
    unique = sorted(set(peers))
    return f"rank{'s' if len(unique) > 1 else ''} {', '.join(map(str, unique))}"


def explained(error: MPI.Exception, rank: int, peers: Sequence[int]) -> CollectiveError:
    """Our error for one of MPI's."""
    if error.Get_error_class() in (MPI.ERR_TRUNCATE, MPI.ERR_IN_STATUS):
        return MismatchError(f"rank {rank} got a longer message from {named(peers)} than expected")
    return CollectiveError(f"rank {rank}, with {named(peers)}: {error.Get_error_string()}")
