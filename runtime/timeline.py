"""The spans of all ranks on one clock, their communications matched: who waited for whom.

The k-th collective of a group on one rank is the k-th on the others; a Recv goes with the oldest
Send of its peer, group and tag. So what a rank spent waiting is known without asking anyone while
it runs: a collective cannot move before its last rank has come, and a message not before it is
sent. What is left of its time it was moving bytes, or reducing them.
"""

from __future__ import annotations

import pickle
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..collectives import Communicator
from ..models.functions.lowering import COLLECTIVES
from ..models.table import aligned
from .agreement import collected
from .bench.result import BUS
from .clock import offsets
from .trace import Span

MESSAGE = "Send, Recv"


class Place(NamedTuple):
    """Where a span is: the rank, and its number among those of the rank."""

    rank: int
    number: int


@dataclass(frozen=True)
class Call:
    """One collective, or one message from its Send to its Recv."""

    op: str
    parts: Mapping[Place, Span]
    """what each rank did; of a message the Recv"""
    latest: int
    """the rank that came last: in a message the sender"""
    began: float
    """when that rank came, and nobody waited any more"""
    source: Place | None = None
    """of a message: the Send"""

    @property
    def size(self) -> int:
        """Bytes, as nccl-tests counts them: of the whole tensor."""
        return max(span.size for span in self.parts.values())

    @property
    def moving(self) -> float:
        """Seconds from when all were there to when the last one went on."""
        return max(0.0, max(span.end for span in self.parts.values()) - self.began)

    def waiting(self, place: Place) -> float:
        """Seconds that a rank waited in it."""
        span = self.parts[place]
        return min(max(0.0, self.began - span.start), span.end - span.start)


@dataclass(frozen=True)
class Timeline:
    """What all ranks did."""

    ranks: Sequence[Sequence[Span]]
    """by rank, in the order of their starts, in seconds of rank 0's clock"""
    calls: Sequence[Call]

    @classmethod
    def of(cls, ranks: Sequence[Sequence[Span]]) -> Timeline:
        """Match spans that are on one clock."""
        ordered = [sorted(spans, key=lambda span: (span.start, -span.end)) for spans in ranks]
        return cls(ordered, [*_collectives(ordered), *_messages(ordered)])


def timeline(comm: Communicator, spans: Sequence[Span]) -> Timeline | None:
    """Bring the spans of all ranks together on rank 0; None on the others. Collective."""
    shifts = offsets(comm)
    everything = collected(comm, pickle.dumps(list(spans)))
    if everything is None:
        return None
    return Timeline.of(
        [
            [s._replace(start=s.start + shift, end=s.end + shift) for s in pickle.loads(packed)]
            for packed, shift in zip(everything, shifts, strict=True)
        ]
    )


def _communications(ranks: Sequence[Sequence[Span]]) -> Iterator[tuple[Place, Span]]:
    for rank, spans in enumerate(ranks):
        for number, span in enumerate(spans):
            if span.kind == "communication":
                yield Place(rank, number), span


def _collectives(ranks: Sequence[Sequence[Span]]) -> Iterator[Call]:
    counts = defaultdict[tuple[int, tuple[int, ...]], int](int)
    calls = defaultdict[tuple[tuple[int, ...], int], dict[Place, Span]](dict)
    for place, span in _communications(ranks):
        if span.peer is None:
            key = place.rank, span.group
            calls[span.group, counts[key]][place] = span
            counts[key] += 1
    for parts in calls.values():
        latest = max(parts, key=lambda place: parts[place].start)
        last = parts[latest]
        yield Call(last.op, parts, latest.rank, last.start)


def _messages(ranks: Sequence[Sequence[Span]]) -> Iterator[Call]:
    sent = defaultdict[tuple[object, ...], deque[tuple[Place, Span]]](deque)
    for place, span in _communications(ranks):
        if span.op == "Send":
            sent[span.group, place.rank, span.peer, span.tag].append((place, span))
    for place, span in _communications(ranks):
        box = sent[span.group, span.peer, place.rank, span.tag]
        if span.op == "Recv" and box:
            source, send = box.popleft()
            yield Call(MESSAGE, {place: span}, source.rank, send.start, source)


def table(line: Timeline) -> str:
    """Lay out the communications by operator.

    time is from when the last rank has come to when the last one goes on, wait the mean of what
    ranks waited, and the straggler is whom the others waited for longest.
    """
    columns = ("op", "count", "bytes", "time (s)", "wait (s)", "busbw (GB/s)", "straggler")
    by_op = defaultdict[str, list[Call]](list)
    for call in line.calls:
        by_op[call.op].append(call)
    return aligned([columns, *(_row(op, calls, len(line.ranks)) for op, calls in by_op.items())])


def _row(op: str, calls: Sequence[Call], ranks: int) -> tuple[object, ...]:
    blamed = defaultdict[int, float](float)
    for call in calls:
        blamed[call.latest] += sum(map(call.waiting, call.parts))
    straggler = max(blamed, key=blamed.__getitem__)
    time = sum(call.moving for call in calls)
    bus = sum(call.size * _factor(call) for call in calls) / time / 1e9 if time else 0.0
    return (
        op, len(calls), sum(call.size for call in calls), time, sum(blamed.values()) / ranks,
        bus, f"rank {straggler}, {blamed[straggler]:.4f} s",
    )  # fmt: skip


def _factor(call: Call) -> float:
    """Bytes that pass the slowest link for each byte of the size."""
    if call.source is not None:
        return 1.0
    count = len(call.parts)
    collective = COLLECTIVES[call.op]
    return BUS[collective](count) if collective in BUS else (count - 1) / count
