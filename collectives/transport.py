"""What the executor needs to know of a medium: bytes to and from a numbered peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .waiting import Call, Patience, Wait

Bytes = NDArray[np.uint8]  # one-dimensional and contiguous
Requests = list[Any]  # a medium's own handles, opaque to everyone else


class Transport(Protocol):
    """One rank's end of a group of ranks.

    Messages between two ranks with one tag arrive in the order in which they were sent. A buffer
    belongs to the transport from isend or irecv until the requests are no longer pending.
    """

    rank: int
    size: int
    bytes_sent: int  # by this rank, since the transport was made
    largest_tag: int
    patience: Patience
    looks: int  # at what a rank waits for, before it makes room for others
    has_processes: bool  # whether each rank is a process, and not a thread of this one
    is_threaded: bool  # whether several threads may call at the same time

    @property
    def node_ranks(self) -> tuple[int, ...]:
        """The ranks that share this rank's memory, in order."""

    def isend(self, data: Bytes, peer: int, tag: int) -> Requests:
        """Begin to send."""

    def irecv(self, data: Bytes, peer: int, tag: int) -> Requests:
        """Begin to receive a message of exactly this length."""

    def pending(self, requests: Requests, peers: Sequence[int]) -> Wait:
        """The end of requests. `peers` are those that a warning or CollectiveTimeout names."""

    def receive(self, data: Bytes, peer: int, tag: int) -> Call[int]:
        """Receive one message and return its length; one longer than data is written nowhere."""

    def pause(self, seconds: float) -> None:
        """Leave the core to others for so long at most; 0 is once."""

    def progress(self) -> None:
        """Let messages that are under way move on."""

    def group(self, ranks: tuple[int, ...]) -> Transport:
        """A transport among `ranks`, in this order; called by these ranks only."""

    def abandon(self, requests: Requests) -> None:
        """Keep the buffers of what is under way for ever: they can no longer be taken back."""

    def free(self) -> None:
        """Give the medium's resources back; every rank calls it."""

    def abort(self, code: int) -> None:
        """End all ranks of the program with this exit code."""
