"""Sequence parallelism: what lies between two products runs on each rank's rows.

A pair of products that are cut by column and by row ends in a sum over the ranks. As an AllReduce
gives it whole to all of them, each computes the same norms and additions until the next product. A
ReduceScatter gives each rank its rows, along the sequence or whichever dim passes through these
nodes; an AllGather before the next product brings them together. The two move as many bytes as the
one, and start once more.

Where a step of one token reads states, each would wait for the second start and has one row to
share: there it is left off, unless a hint asks for it. Korthikanti et al., "Reducing activation
recomputation in large transformer models", MLSys 2023.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ..errors import HintError
from .analysis import Analysis
from .axes import are_alike, atoms
from .hints import ASKED, Wanted
from .machine import Machine
from .prices import NOT_WORTH, TAKEN, WANTED
from .regions import Region, regions
from .search import Choice

MARGIN = 2
"""A region saves so many times what it costs, so that texts half as long as usual do not lose."""

EXCLUDED = "excluded by another that is taken"
STEPS = "not worth it in steps of one token"


def with_regions(analysis: Analysis, choice: Choice, machine: Machine) -> Choice:
    """Let regions run on rows where that saves time, or where a hint asks for it.

    Raises HintError where it asks for what is no region.
    """
    layout, wanted, found = choice.layout, choice.wanted, list[Region]()
    every = list(regions(analysis, layout, machine))
    every.sort(key=lambda region: (not _is_asked(region, wanted), region.spent - region.saved))
    for region in every:
        outcome = _outcome(analysis, region, found, wanted)
        is_taken = outcome in (TAKEN, WANTED)
        found.append(replace(region, outcome=outcome, is_taken=is_taken))
        layout = region.added_to(layout) if is_taken else layout
    for axis, hint in wanted.rows.items():
        if not any(region.is_taken and are_alike(region.axis, axis) for region in found):
            raise HintError(
                f"{hint} cannot cut dim {hint.dim}: its size depends on what is fed, and nothing "
                "that is computed behind a sum over the ranks has rows of it"
            )
    return replace(choice, layout=layout, regions=tuple(found))


def without_regions(choice: Choice) -> Choice:
    """Return a choice of which everything between sums runs whole."""
    return replace(choice, layout=replace(choice.layout, scattered={}, rows={}), regions=())


def _outcome(analysis: Analysis, region: Region, others: list[Region], wanted: Wanted) -> str:
    if any(atom in wanted.whole for atom in atoms(region.axis)):
        return ASKED
    if any(region.overlaps(other) for other in others if other.is_taken):
        return EXCLUDED
    if _is_asked(region, wanted):
        return WANTED
    if region.saved <= MARGIN * region.spent:
        return NOT_WORTH
    return STEPS if analysis.steps else TAKEN


def _is_asked(region: Region, wanted: Wanted) -> bool:
    return any(are_alike(region.axis, axis) for axis in wanted.rows)


@dataclass(frozen=True)
class RowPrice:
    """Regions that are alike: what each saves and costs a run, without its steps."""

    axis: str
    times: int
    nodes: int
    sums: int
    """that each rank gets its rows of"""
    gathers: int
    seconds_saved: float
    """of computing"""
    seconds_spent: float
    """by which the collectives take longer"""
    outcome: str


def row_prices(choice: Choice) -> tuple[RowPrice, ...]:
    """Return what was weighed of regions that would save something, or that are taken."""
    shown = [region for region in choice.regions if region.is_taken or region.saved > 0]
    counts = Counter(map(_row_price, shown))
    return tuple(replace(price, times=times) for price, times in counts.items())


def _row_price(region: Region) -> RowPrice:
    return RowPrice(
        axis=repr(region.axis),
        times=1,
        nodes=region.nodes,
        sums=len(region.sums),
        gathers=len(region.gathered),
        seconds_saved=region.saved,
        seconds_spent=region.spent,
        outcome=region.outcome,
    )
