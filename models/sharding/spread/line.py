"""A row of things cut into runs: the longest as short as it can be, then the cheapest cuts.

A run never weighs more than its limit. What two things of a run share weighs once in it, and what
two runs share weighs in both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SLACK = 0.04
"""The longest run may be so much longer than it need if its cuts are cheaper for it."""

HALVINGS = 30
"""Of the interval in which the length of the longest run lies, or the weight of the heaviest."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Line:
    """What is to be cut."""

    lengths: tuple[float, ...]
    """of each thing"""
    parts: tuple[frozenset[str], ...]
    """names of what weighs, by thing"""
    weights: Mapping[str, int]
    """by name"""
    costs: tuple[float, ...]
    """of a cut before each thing, infinite where none can be; the last is that of the end, 0"""

    @property
    def count(self) -> int:
        return len(self.lengths)

    def reach(self, length: float, weight: float) -> list[int]:
        """Return for each place the farthest at which a run from there may end."""
        held, run, carried, stop = Counter[str](), 0.0, 0, 0
        found = list[int]()
        for start in range(self.count):
            if stop < start:
                held, run, carried, stop = Counter[str](), 0.0, 0, start
            while stop < self.count:
                more = sum(self.weights[name] for name in self.parts[stop] if not held[name])
                if run + self.lengths[stop] > length * (1 + 1e-9) or carried + more > weight:
                    break
                run, carried = run + self.lengths[stop], carried + more
                held.update(self.parts[stop])
                stop += 1
            found.append(stop)
            if stop > start:
                run -= self.lengths[start]
                held.subtract(self.parts[start])
                carried -= sum(self.weights[name] for name in self.parts[start] if not held[name])
        return found

    def weight(self, start: int, stop: int) -> int:
        """Return the weight of a run."""
        names = frozenset[str]().union(*self.parts[start:stop])
        return sum(self.weights[name] for name in names)


def cut(line: Line, limits: Sequence[float]) -> list[int] | None:
    """Cut a line into runs that weigh at most so much; return where each ends, None if none can.

    No run is empty. Takes O(count * runs) a halving.
    """

    def reaches(length: float) -> list[list[int]]:
        by_limit = {limit: line.reach(length, limit) for limit in set(limits)}
        return [by_limit[limit] for limit in limits]

    low, high = 0.0, sum(line.lengths)
    if not _is_cut(line, reaches(high)):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _is_cut(line, reaches(middle)) else (middle, high)
    return _cheapest(line, reaches(high * (1 + SLACK)))


def least_weight(line: Line, runs: int) -> int | None:
    """Return what the heaviest of so many runs weighs at the least, None if there is no cut."""
    low, high = 0, line.weight(0, line.count)
    length = sum(line.lengths)
    if not _is_cut(line, [line.reach(length, high)] * runs):
        return None
    while low < high:
        middle = (low + high) // 2
        is_cut = _is_cut(line, [line.reach(length, middle)] * runs)
        low, high = (low, middle) if is_cut else (middle + 1, high)
    return high


def _is_cut(line: Line, reaches: Sequence[Sequence[int]]) -> bool:
    """Say whether runs that go no farther than they may come to the end."""
    places, can_end = np.arange(line.count + 1), np.isfinite(line.costs)
    open_: Flags = places == 0
    for reach in reaches:
        before = np.concatenate([[0], np.cumsum(open_)])
        first = np.minimum(np.searchsorted(reach, places), places)
        open_ = can_end & (before[places] > before[first])
    return bool(open_[-1])


def _cheapest(line: Line, reaches: Sequence[Sequence[int]]) -> list[int]:
    """Return the ends of the runs whose cuts cost the least."""
    best = [np.where(np.arange(line.count + 1) == 0, 0.0, np.inf)]
    for reach in reaches:
        best.append(_one_more(line, reach, best[-1]))
    place, ends = line.count, [line.count]
    for k in range(len(reaches) - 1, 0, -1):
        first = bisect_left(reaches[k], place, hi=place)
        place = first + int(best[k][first:place].argmin())
        ends.append(place)
    return ends[::-1]


def _one_more(line: Line, reach: Sequence[int], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the least cost of coming to each place with one run more."""
    found = np.full(line.count + 1, np.inf)
    for place in range(1, line.count + 1):
        first = bisect_left(reach, place, hi=place)
        if first < place:
            found[place] = before[first:place].min() + line.costs[place]
    return found
