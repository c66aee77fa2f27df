"""Receives from single ranks, whose senders may send more than is expected.

Open MPI 5.0.11 writes a message that is longer than its array beyond the array, and raises
afterwards. So nothing is posted here: a message is matched when it comes, and then received where
it has room. Its sender waits until then, maybe in the midst of what this rank must do first.
Therefore whoever waits for anything looks for the messages of all receives.
"""

from __future__ import annotations

import threading

import numpy as np
from mpi4py import MPI

from .errors import CollectiveError
from .transport import Bytes, Requests

EAGER = 1 << 10  # bytes that have come, if their message has
LARGEST_MESSAGE = 1 << 30  # MPI counts are 32 bits wide below MPI 4; longer messages are split


def parts(data: Bytes) -> list[Bytes]:
    """Cut a long message into pieces whose length MPI can count, of which the last is shorter.

    So a receiver knows the end without knowing the length.
    """
    starts = range(0, data.nbytes + 1, LARGEST_MESSAGE)
    return [data[start : start + LARGEST_MESSAGE] for start in starts]


class Landing:
    """Where the parts of one message go."""

    __slots__ = (
        "comm",
        "data",
        "error",
        "is_whole",
        "length",
        "peer",
        "requests",
        "sender",
        "tag",
    )

    def __init__(self, comm: MPI.Intracomm, peer: int, tag: int, data: Bytes) -> None:
        self.comm, self.peer, self.tag = comm, peer, tag
        self.sender = comm.handle, peer, tag
        self.data = data
        self.length = 0  # of the parts that were matched
        self.requests: Requests = []
        self.is_whole = False  # all parts are matched
        self.error: Exception | None = None

    def match(self, status: MPI.Status) -> bool:
        """Take the parts that have come; whether there are no more."""
        try:
            while not self.is_whole:
                message = self.comm.Improbe(self.peer, self.tag, status)
                if message is None:
                    return False
                self.take(message, status.Get_count(MPI.BYTE))
        except MPI.Exception as error:
            self.error = error
        return True

    def take(self, message: MPI.Message, count: int) -> None:
        """Receive a part, in its place if there is room for it."""
        start, size = self.length, self.data.size
        self.length = stop = start + count
        if stop > size:
            place = np.empty(count, np.uint8)
        else:
            place = self.data if count == size else self.data[start:stop]
        if count <= EAGER:
            message.Recv((place, MPI.BYTE))
        else:
            self.requests.append(message.Irecv((place, MPI.BYTE)))
        self.is_whole = count < LARGEST_MESSAGE

    def has_come(self) -> bool:
        """Whether all of it has; raises what MPI did."""
        if self.error is not None:
            raise self.error
        return self.is_whole and (not self.requests or bool(MPI.Request.Testall(self.requests)))


class Inbox:
    """The receives of this process whose messages have not come, in order.

    Garbage is collected anywhere, in here too, and a receive that nobody waits for any more then
    withdraws its landing: so the thread that holds the lock may take it again, and what was about
    to be looked at may be gone.
    """

    def __init__(self) -> None:
        self.landings: dict[Landing, None] = {}
        self.lock = threading.RLock()
        self.status = MPI.Status()

    def expect(self, landing: Landing) -> None:
        """Wait for a message, after those that are waited for already."""
        self.landings[landing] = None

    def look(self) -> None:
        """Match what has come, unless another thread does."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            silent = set()
            for landing in list(self.landings):
                if landing not in self.landings or landing.sender in silent:
                    continue  # it is gone, or its turn is after an earlier one
                if landing.match(self.status):
                    self.withdraw(landing)
                else:
                    silent.add(landing.sender)
        finally:
            self.lock.release()

    def withdraw(self, landing: Landing) -> None:
        """Wait for this message no longer."""
        with self.lock:
            self.landings.pop(landing, None)

    def close(self, comm: MPI.Intracomm) -> None:
        """Wait for no message of a communicator that is freed now."""
        with self.lock:
            for landing in [one for one in list(self.landings) if one.comm is comm]:
                self.withdraw(landing)
                landing.error = CollectiveError(
                    f"the communicator was freed before a message of rank {landing.peer} had come"
                )


INBOX = Inbox()
