"""A timeline as Chrome's trace events, which Perfetto and chrome://tracing show.

A process is a rank, and has one thread. Waiting is a slice of its own inside that of a
communication, and an arrow leads from each Send to its Recv (the Trace Event Format of Chromium).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .timeline import Timeline
from .trace import Span

Event = dict[str, Any]


def write(path: str | Path, line: Timeline) -> None:
    """Write a timeline as a file. Raises OSError."""
    content = {"traceEvents": list(events(line)), "displayTimeUnit": "ms"}
    Path(path).write_text(json.dumps(content) + "\n")


def events(line: Timeline) -> Iterator[Event]:
    """Yield the events: times in microseconds from the start of the run."""
    start = min((spans[0].start for spans in line.ranks if spans), default=0.0)
    for rank, spans in enumerate(line.ranks):
        yield _named("process_name", rank, f"rank {rank}")
        yield _named("thread_name", rank, "steps")
        for span in spans:
            yield _slice(rank, span.kind, span.name, span.start - start, span.end - start, span)
    for number, call in enumerate(line.calls):
        for place, span in call.parts.items():
            began, waited = span.start - start, call.waiting(place)
            if waited > 0:
                name = f"wait for rank {call.latest}"
                yield _slice(place.rank, "wait", name, began, began + waited)
            if call.source is not None:
                sent = line.ranks[call.source.rank][call.source.number]
                arrow = {"cat": "message", "name": "message", "id": number, "tid": 0}
                left, came = 1e6 * (sent.start - start), 1e6 * (span.end - start)
                yield {**arrow, "ph": "s", "pid": call.source.rank, "ts": left}
                yield {**arrow, "ph": "f", "bp": "e", "pid": place.rank, "ts": came}


def _named(what: str, rank: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": rank, "tid": 0, "args": {"name": name}}


def _slice(
    rank: int, kind: str, name: str, start: float, end: float, span: Span | None = None
) -> Event:
    event: Event = {
        "ph": "X", "cat": kind, "name": name, "pid": rank, "tid": 0,
        "ts": 1e6 * start, "dur": 1e6 * (end - start),
    }  # fmt: skip
    if span is not None and span.kind == "communication":
        args: Event = {"op": span.op, "bytes": span.size, "sent": span.sent}
        args |= {"ranks": list(span.group)} if span.peer is None else {"peer": span.peer}
        event["args"] = args | ({"tag": span.tag} if span.peer is not None else {})
    return event
