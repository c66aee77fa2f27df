"""What became of each candidate and of each operator, and why: the account of a choice.

Layers are alike: what differs in nothing but the numbers in its names is counted as one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from onnx import TensorProto

from ..table import short
from .analysis import Analysis
from .axes import Axis
from .candidates import Candidate, conflicts
from .hints import ASKED
from .layout import Layout, is_opaque
from .search import Choice
from .site import Site
from .workload import work

TAKEN = "taken"
WANTED = "taken, as a hint asks"
NOT_WORTH = "not worth it"

NOTHING = "nothing in it is cut"
COUNTED = "it makes whole numbers, such as sizes"
GATHERED = "it needs whole what is cut elsewhere"

WHOLE_NUMBERS = {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}


@dataclass(frozen=True)
class Price:
    """Candidates that are alike: what each of them saves and costs a run, and what came of it."""

    axis: str
    times: int
    weights: tuple[str, ...]
    """names of the weights that it cuts, numbers in them left out"""
    bytes_saved: int
    seconds_saved: float
    calls: int
    """collectives"""
    bytes_sent: int
    """by a rank"""
    seconds_spent: float
    """in collectives"""
    outcome: str
    """taken, not worth it, excluded by another that is taken, or what a hint says"""


@dataclass(frozen=True)
class Operator:
    """The nodes of one operator."""

    name: str
    nodes: int
    cut: int
    """nodes that a rank computes its part of"""
    multiply_adds: float
    """of a run, on one rank"""
    whole: dict[str, int]
    """numbers of nodes that every rank computes whole, by the reason"""


def prices(analysis: Analysis, choice: Choice) -> tuple[Price, ...]:
    """Return what was weighed, the largest savings of bytes first."""
    outcomes = _outcomes(analysis, choice)
    axes = [_axis(analysis, candidate.atom) for candidate in choice.considered]
    counts = Counter(map(_price, axes, choice.considered, outcomes))
    found = [replace(price, times=times) for price, times in counts.items()]
    return tuple(sorted(found, key=lambda price: -price.bytes_saved * price.times))


def _axis(analysis: Analysis, atom: Axis) -> str:
    """Show what is cut: an atom, with the one that it is nested in."""
    outer = analysis.nested.get(atom)
    return repr(atom) if outer is None else f"({outer!r}*{atom!r})"


def _price(axis: str, candidate: Candidate, outcome: str) -> Price:
    return Price(
        axis=axis,
        times=1,
        weights=tuple(dict.fromkeys(map(pattern, candidate.weights))),
        bytes_saved=round(candidate.saved),
        seconds_saved=candidate.gained,
        calls=len(candidate.moved),
        bytes_sent=round(candidate.sent),
        seconds_spent=candidate.spent,
        outcome=outcome,
    )


def _outcomes(analysis: Analysis, choice: Choice) -> Iterable[str]:
    considered = choice.considered
    edges = conflicts(analysis, [candidate.atom for candidate in considered])
    taken = {k for k, c in enumerate(considered) if c.atom in choice.layout.sharded}
    for k, excluding in enumerate(edges):
        if k in taken:
            yield WANTED if considered[k].atom in choice.wanted.cut else TAKEN
        elif considered[k].atom in choice.wanted.whole:
            yield ASKED
        elif excluding & taken:
            yield f"excluded by {_label(considered[min(excluding & taken)])}"
        else:
            yield NOT_WORTH


def _label(candidate: Candidate) -> str:
    names = [short(pattern(name)) for name in candidate.weights[:1]]
    return " of ".join([repr(candidate.atom), *names])


def pattern(name: str) -> str:
    """Leave the numbers out of a name.

    >>> pattern("model.layers.11.mlp.up_proj.weight")
    'model.layers.*.mlp.up_proj.weight'
    """
    return re.sub(r"\d+", "*", name)


def operators(analysis: Analysis, layout: Layout) -> tuple[Operator, ...]:
    """Return what of each operator is cut, and why the rest is whole: the most work first."""
    sites = dict[str, list[Site]]()
    for site in analysis.sites:
        sites.setdefault(site.node.op_type, []).append(site)
    found = []
    for name, some in sites.items():
        reasons = Counter(filter(None, (_reason(site, layout) for site in some)))
        multiply_adds = sum(work(analysis, site).multiply_adds for site in some)
        whole = dict(reasons.most_common())
        found.append(Operator(name, len(some), len(some) - reasons.total(), multiply_adds, whole))
    return tuple(sorted(found, key=lambda row: (-row.multiply_adds, -row.nodes)))


def _reason(site: Site, layout: Layout) -> str | None:
    """Say why a node is computed whole; None where it is cut."""
    if site.obstacle is not None:
        return site.obstacle
    note, made = site.note, filter(None, site.outputs)
    if layout.sharded.isdisjoint(site.seen):
        are_counts = all(out.data_type in WHOLE_NUMBERS for out in made)
        return note or (COUNTED if are_counts else NOTHING)
    return (note or GATHERED) if is_opaque(site, layout) else None
