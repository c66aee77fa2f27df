"""Some ranks of a transport as a transport: for the parts of one call, which take turns."""

from __future__ import annotations

from collections.abc import Sequence

from .transport import Bytes, Requests, Transport
from .waiting import Call, Wait


class Subset:
    """Its messages are among those of the whole, and must not cross any others."""

    def __init__(self, whole: Transport, ranks: Sequence[int]) -> None:
        """`ranks` of the whole, this one among them, in their order here. A local call."""
        self.whole = whole
        self.ranks = tuple(ranks)
        self.rank = self.ranks.index(whole.rank)
        self.size = len(self.ranks)
        self.largest_tag = whole.largest_tag
        self.patience = whole.patience
        self.looks = whole.looks
        self.has_processes = whole.has_processes
        self.is_threaded = whole.is_threaded

    @property
    def bytes_sent(self) -> int:
        return self.whole.bytes_sent

    @bytes_sent.setter
    def bytes_sent(self, count: int) -> None:
        self.whole.bytes_sent = count

    @property
    def node_ranks(self) -> tuple[int, ...]:
        here = self.whole.node_ranks
        return tuple(i for i, rank in enumerate(self.ranks) if rank in here)

    def isend(self, data: Bytes, peer: int, tag: int) -> Requests:
        return self.whole.isend(data, self.ranks[peer], tag)

    def irecv(self, data: Bytes, peer: int, tag: int) -> Requests:
        return self.whole.irecv(data, self.ranks[peer], tag)

    def pending(self, requests: Requests, peers: Sequence[int]) -> Wait:
        return self.whole.pending(requests, [self.ranks[peer] for peer in peers])

    def receive(self, data: Bytes, peer: int, tag: int) -> Call[int]:
        return self.whole.receive(data, self.ranks[peer], tag)

    def pause(self, seconds: float) -> None:
        self.whole.pause(seconds)

    def progress(self) -> None:
        self.whole.progress()

    def group(self, ranks: tuple[int, ...]) -> Subset:
        return Subset(self.whole, [self.ranks[rank] for rank in ranks])

    def abandon(self, requests: Requests) -> None:
        self.whole.abandon(requests)

    def free(self) -> None:
        """There is nothing of its own."""

    def abort(self, code: int) -> None:
        self.whole.abort(code)
