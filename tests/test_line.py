"""A row cut into runs, against all the cuts that there are."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from rankwise.models.sharding.spread.line import SLACK, Line, cut, least_weight


def drawn(rng: random.Random) -> Line:
    """Draw a short line: things that share parts, and places where it cannot be cut."""
    count = rng.randint(1, 7)
    weights = {name: rng.randint(0, 9) for name in "abcd"}
    inner = [rng.choice([0.0, 1.0, 2.5, 7.0, math.inf]) for _ in range(count - 1)]
    return Line(
        tuple(rng.choice([0.0, 1.0, 2.0, 3.5, 6.0]) for _ in range(count)),
        tuple(frozenset(rng.sample("abcd", rng.randint(0, 3))) for _ in range(count)),
        weights,
        (0.0, *inner, 0.0),
    )


def every_cut(line: Line, runs: int) -> list[list[int]]:
    """Return the ends of all cuts into so many runs, none of them empty."""
    free = [place for place in range(1, line.count) if line.costs[place] < math.inf]
    return [[*inner, line.count] for inner in itertools.combinations(free, runs - 1)]


def longest(line: Line, ends: list[int]) -> float:
    return max(sum(line.lengths[a:b]) for a, b in itertools.pairwise([0, *ends]))


def fits(line: Line, ends: list[int], limits: list[float]) -> bool:
    spans = itertools.pairwise([0, *ends])
    return all(line.weight(*span) <= limit for span, limit in zip(spans, limits, strict=True))


def cost(line: Line, ends: list[int]) -> float:
    return sum(line.costs[end] for end in ends)


@pytest.mark.parametrize("seed", range(400))
def test_the_longest_run_is_as_short_and_the_cuts_as_cheap_as_can_be(seed: int) -> None:
    rng = random.Random(seed)
    line, runs = drawn(rng), rng.randint(1, 4)
    limits = [rng.choice([math.inf, 12.0, 20.0]) for _ in range(runs)]
    allowed = [ends for ends in every_cut(line, runs) if fits(line, ends, limits)]
    found = cut(line, limits) if line.count >= runs else None
    if not allowed:
        assert found is None
        return
    assert found in allowed
    least = min(longest(line, ends) for ends in allowed)
    near = [ends for ends in allowed if longest(line, ends) <= least * (1 + SLACK) + 1e-6]
    assert longest(line, found) <= least * (1 + SLACK) + 1e-6
    assert cost(line, found) == min(cost(line, ends) for ends in near)


@pytest.mark.parametrize("seed", range(100))
def test_the_least_weight_is_that_of_the_best_cut(seed: int) -> None:
    rng = random.Random(seed)
    line, runs = drawn(rng), rng.randint(1, 3)
    spans = [list(itertools.pairwise([0, *ends])) for ends in every_cut(line, runs)]
    heaviest = [max(line.weight(*span) for span in some) for some in spans]
    found = least_weight(line, runs)
    assert found == (min(heaviest) if heaviest else None)
