"""The collectives of each group, in the order in which its ranks call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .events import Event
from .findings import Finding

Group = tuple[int, ...]


class Calls:
    """What each rank has called in each group, and what has not come together yet."""

    def __init__(self) -> None:
        self._waiting: dict[Group, dict[int, Event]] = {}
        self._history: dict[Group, dict[int, list[Event]]] = {}
        self._differing: dict[Group, Finding] = {}

    def arrive(self, event: Event) -> list[Event] | None:
        """Note a call; return those of all ranks, in group order, if it is the last of them."""
        self._history.setdefault(event.group, {}).setdefault(event.rank, []).append(event)
        here = self._waiting.setdefault(event.group, {})
        here[event.rank] = event
        if len(here) < len(event.group):
            return None
        del self._waiting[event.group]
        return [here[rank] for rank in event.group]

    def missing(self, event: Event) -> list[int]:
        """Return the ranks of a call's group that are not there."""
        here = self._waiting.get(event.group, {})
        return [rank for rank in event.group if rank not in here]

    def differ(self, group: Group, finding: Finding | None) -> None:
        """Keep the first difference in a group: what comes after it may only follow from it."""
        if finding is not None:
            self._differing.setdefault(group, finding)

    def findings(self) -> Iterator[Finding]:
        """Yield for each group the first difference, or that its ranks call in another order."""
        for group, calls in self._history.items():
            found = _in_another_order([calls[rank] for rank in group if rank in calls])
            if found is not None:
                yield found
            elif group in self._differing:
                yield self._differing[group]


def _in_another_order(calls: list[list[Event]]) -> Finding | None:
    """Find a rank that calls what another calls, node by node, in another order."""
    first, *others = calls
    names = [(event.op, event.node) for event in first]
    for other in others:
        theirs = [(event.op, event.node) for event in other]
        if names != theirs and Counter(names) == Counter(theirs):
            k = next(k for k, name in enumerate(names) if name != theirs[k])
            text = (
                f"expected {first[k].op} {first[k].node!r}, as rank {first[k].rank} calls it here"
            )
            return other[k].finding("order", f"{text}: both call the same ones in another order")
    return None
