"""The choice of the atoms that are sharded.

What a candidate is worth: the seconds of computing that it saves a run, less the seconds of its
collectives, plus a price on the bytes of weights that a rank need not hold. The choice is an
independent set of the largest worth, and it is exact: the graph of conflicts falls apart once the
few atoms that all layers share, such as the hidden width, are decided.

Bytes are no reason for a collective in every step of a sequence, unless the memory is limited or
nothing else could be cut.

The price is the least at which the heaviest rank holds little more than its even share of the
weights, or fits the memory that is given. A higher price never makes a rank hold more, so it is
found by bisection.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cache

from ..errors import MemoryLimitError, MeshError
from ..mesh import ranks
from .analysis import Analysis
from .candidates import Candidate, candidates, conflicts, rank_bytes
from .hints import Hint, Wanted, resolve
from .independent import independent_set
from .layout import Layout
from .machine import HERE, Machine

PRICES = (0.0, *(2.0**k * 1e-13 for k in range(40)))
"""Seconds a run that a byte of weights not held is worth. To read one takes 3e-11; the last is
dearer than any collective, so that toy models are sharded too."""

SLACK = 0.05
"""A rank may hold this much more than its even share of the weights, as a part of the whole."""

NEAR_BEST = 0.02
"""Where no choice comes so low, it may hold this much more than any choice leaves it."""


Memory = int | tuple[int, ...] | None


def limits(memory: Memory, stages: int) -> list[float]:
    """Return the bytes of weights that a rank of each stage may hold. Raises MeshError."""
    if memory is None or isinstance(memory, int):
        return [math.inf if memory is None else memory] * stages
    if len(memory) != stages:
        raise MeshError(
            f"expected one limit of memory, or one for each stage, which are {stages}, got "
            f"{len(memory)}"
        )
    return [float(limit) for limit in memory]


@dataclass(frozen=True)
class Terms:
    """What a choice is made for."""

    machine: Machine = HERE
    memory: Memory = None
    """bytes of weights that a rank may hold, by stage if not the same for all; None for little
    more than an even share"""
    hints: tuple[Hint, ...] = ()
    """what must be cut or stay whole, whatever it costs"""
    batch_dim: str | None = None
    """the dim of all inputs that replicas split, or NAME=DIM,NAME=DIM; None for what is found"""

    @property
    def limit(self) -> float | None:
        """Bytes that a rank may hold where there is one stage."""
        if self.memory is None or isinstance(self.memory, int):
            return self.memory
        return limits(self.memory, 1)[0]


@dataclass(frozen=True)
class Choice:
    """The atoms that are sharded, and what was weighed."""

    chosen: tuple[Candidate, ...]
    layout: Layout
    heaviest: float
    """the heaviest rank's part of the weight bytes"""
    considered: tuple[Candidate, ...]
    price: float = 0.0
    """seconds that a byte was worth"""
    wanted: Wanted = field(default_factory=Wanted)
    """what hints have asked for"""

    @property
    def seconds(self) -> float:
        """What a run takes longer than on one rank, as far as the candidates say: negative."""
        return sum(candidate.spent - candidate.gained for candidate in self.chosen)


def choose(analysis: Analysis, size: int, terms: Terms | None = None) -> Choice:
    """Choose the atoms to shard over `size` ranks; none are chosen where none can be.

    Raises MeshError where no choice fits the memory of a rank, HintError where a hint cannot be
    kept.
    """
    terms = terms or Terms()
    wanted = resolve(analysis, size, terms.hints)
    found = candidates(analysis, size, terms.machine, wanted.cut.keys())
    edges = conflicts(analysis, [candidate.atom for candidate in found])
    forced = {k for k, candidate in enumerate(found) if candidate.atom in wanted.cut}
    barred = {k for k, candidate in enumerate(found) if candidate.atom in wanted.whole}
    barred |= {neighbour for k in forced for neighbour in edges[k]}

    is_tight = terms.limit is not None or all(candidate.is_stepwise for candidate in found)

    @cache
    def at(price: float) -> Choice:
        worth = [
            c.gained - c.spent + price * c.saved * (is_tight or not c.is_stepwise) for c in found
        ]
        free = [0.0 if k in forced | barred else value for k, value in enumerate(worth)]
        kept = forced | independent_set(free, edges)
        chosen = tuple(found[k] for k in sorted(kept))
        layout = Layout.along((each.atom for each in chosen), size, analysis.nested)
        heaviest = _heaviest(analysis, layout)
        return Choice(chosen, layout, heaviest, tuple(found), price, wanted)

    least = at(PRICES[-1])
    goal = max(1 / size + SLACK, least.heaviest + NEAR_BEST)
    if terms.limit is not None:
        goal = _fitting(analysis, least, terms.limit)

    def is_enough(price: float) -> bool:
        choice = at(price)
        return choice.heaviest <= goal and bool(choice.chosen or not least.chosen)

    return at(PRICES[bisect_left(PRICES, True, key=is_enough)])


def _fitting(analysis: Analysis, least: Choice, memory: float) -> float:
    """Return the part of the weights that fits a rank's memory."""
    total = analysis.graph.weight_bytes or 1
    if least.heaviest * total > memory:
        raise MemoryLimitError(
            f"expected weights of at most {memory:,.0f} bytes on each rank, but on "
            f"{ranks(least.layout.size)} the heaviest holds {least.heaviest * total:,.0f} at the "
            "least; give it more memory or more ranks"
        )
    return memory / total


def _heaviest(analysis: Analysis, layout: Layout) -> float:
    # Rank 0 has one index more wherever a size does not divide.
    return rank_bytes(analysis, layout, 0) / (analysis.graph.weight_bytes or 1)
