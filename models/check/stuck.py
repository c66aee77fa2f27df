"""Why ranks cannot go on, and which messages nobody takes.

A rank waits for another one to send, to receive or to come to a collective, and for all whom it
lacks. So ranks are stuck for ever where the graph of who waits for whom has a cycle, or where it
ends at a rank that has ended. Who only waits behind such ranks is not named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from .events import Event
from .findings import Finding
from .order import Calls

COUNTERPART = {"Send": "Recv", "Recv": "Send"}

Waiting = Mapping[int, Event]
Mail = Mapping[tuple[object, ...], deque[Event]]


def explained(waiting: Waiting, mail: Mail, calls: Calls) -> Iterator[Finding]:
    """Yield why ranks do not go on: one finding for each cause."""
    targets = {rank: _waits_for(waiting[rank], calls) for rank in sorted(waiting)}
    excused, said = set[int](), set[tuple[int, ...]]()
    for rank in targets:
        event = waiting[rank]
        found = _near_miss(event, waiting, mail) or _deserted(event, targets[rank], waiting)
        if found is not None:
            excused.add(rank)
            if event.op in COUNTERPART:
                yield found
            elif event.group not in said:  # all who wait in one collective wait for the same
                said.add(event.group)
                yield found
    for cycle in _cycles(targets):
        if excused.isdisjoint(cycle):
            yield _deadlock([waiting[rank] for rank in cycle])


def left_over(waiting: Waiting, mail: Mail) -> Iterator[Finding]:
    """Yield what has been sent to ranks that have ended without taking it."""
    for box in mail.values():
        for sent in box:
            if sent.peer not in waiting and waiting.get(sent.rank) != sent:
                yield _unmatched(sent)


def _waits_for(event: Event, calls: Calls) -> list[int]:
    if event.op in ("Send", "Recv"):
        return [] if event.peer is None else [event.peer]
    return calls.missing(event)


def _near_miss(event: Event, waiting: Waiting, mail: Mail) -> Finding | None:
    """Find what was meant for a Recv or a collective, and differs from it in tag or group."""
    if event.op == "Recv":
        ends = event.peer, event.rank
        sent = next((b[0] for key, b in mail.items() if key[1:3] == ends and b), None)
        if sent is None:
            return None
        differs = "tag" if sent.group == event.group else "group"
        return event.finding("mismatch", _differing(differs, event, sent))
    for rank in event.group:
        other = waiting.get(rank)
        if (
            other is None
            or other.op != event.op
            or other.group == event.group
            or rank < event.rank
        ):
            continue
        if event.op != "Send" and event.rank in other.group:
            return event.finding("mismatch", _differing("group", event, other))
    return None


def _differing(what: str, event: Event, other: Event) -> str:
    mine, theirs = (list(e.group) if what == "group" else e.tag for e in (event, other))
    return f"expected {what} {mine}, but {other} has {theirs}"


def _deserted(event: Event, targets: list[int], waiting: Waiting) -> Finding | None:
    """Find a rank that is waited for and has ended."""
    ended = [rank for rank in targets if rank not in waiting]
    if not ended:
        return None
    if event.op in COUNTERPART:
        return _unmatched(event)
    text = f"expected rank {ended[0]} to call it too, but that rank ends"
    return event.finding("unmatched", text)


def _unmatched(event: Event) -> Finding:
    wanted = f"{COUNTERPART[event.op]} of rank {event.peer} with tag {event.tag}"
    return event.finding("unmatched", f"expected a {wanted}, but that rank ends without one")


def _cycles(targets: Mapping[int, list[int]]) -> Iterator[list[int]]:
    """Yield cycles of ranks that wait for each other, none of which share a rank."""
    seen = set[int]()
    for start in targets:
        path, branches = [start], [iter(targets[start])]
        if start in seen:
            continue
        seen.add(start)
        while path:
            following = next(branches[-1], None)
            if following is None:
                path.pop()
                branches.pop()
            elif following in path:
                yield path[path.index(following) :]
                path, branches = [], []
            elif following not in seen and following in targets:
                seen.add(following)
                path.append(following)
                branches.append(iter(targets[following]))


def _deadlock(cycle: list[Event]) -> Finding:
    after = [*cycle[1:], cycle[0]]
    pairs = zip(cycle, after, strict=True)
    links = [f"{event} waits for rank {other.rank}" for event, other in pairs]
    return cycle[0].finding("deadlock", "deadlock: " + ", ".join(links))
