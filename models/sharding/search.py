"""The choice of the atoms that are sharded.

What an atom is worth: the bytes of weights that a rank need not hold. What it costs: the
collectives of a run and the bytes that a rank sends in them, an AllReduce where it is summed over,
an AllGather where a node or an output needs it whole. Two atoms that one node sees exclude each
other, since a tensor that is cut along both would leave each rank a block of the diagonal. So the
choice is an independent set of the largest value, and it is exact: the graph of conflicts falls
apart once the few atoms that all layers share, such as the hidden width, are decided.

Bytes kept and bytes sent are put on one scale by a price. It starts high, and falls until the
heaviest rank holds little more than its share of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from onnx import TensorProto, helper

from ..weights import INLINE_BYTES
from .analysis import Analysis, mixed, repeated
from .axes import Axis, Conflict
from .layout import Layout
from .relayout import place
from .site import Site, Tensor

PRICES = tuple(4.0**-k for k in range(-1, 8))
"""Bytes of weights that a byte sent per run must save, the dearest first. At 1 MiniLM's attention
heads, inner widths and vocabulary are cut, and its table of positions is left whole. Never 0: of
two choices that save as much, the one that sends less is the better at any size."""

CALL_BYTES = 1 << 16
"""A collective takes as long as sending this many bytes before it sends the first: on one node,
one of 64 KiB takes no longer than one of 1 KiB (scripts/results/allreduce_2core_2026-11-21.md)."""

SLACK = 0.05
"""A rank may hold this much more than its even share of the weights, as a part of the whole."""

NEAR_BEST = 0.02
"""A dearer price is kept where a lower one would shrink the heaviest rank by less than this."""


@dataclass(frozen=True)
class Candidate:
    """An atom that could be sharded."""

    atom: Axis
    saved: float
    """bytes of weights that the heaviest rank need not hold"""
    sent: float
    """bytes that a rank sends for it in a run of the usual size"""
    weights: tuple[str, ...]
    """names of the weights that it cuts"""
    calls: int = 0
    """collectives of a run"""

    @property
    def cost(self) -> float:
        """What its communication takes, in bytes sent."""
        return self.sent + CALL_BYTES * self.calls


@dataclass(frozen=True)
class Choice:
    """The atoms that are sharded, and what was weighed."""

    chosen: tuple[Candidate, ...]
    layout: Layout
    heaviest: float
    """the heaviest rank's part of the weight bytes"""
    considered: tuple[Candidate, ...]

    @property
    def cost(self) -> float:
        """What the communication takes, in bytes sent."""
        return sum(candidate.cost for candidate in self.chosen)


def choose(analysis: Analysis, size: int) -> Choice:
    """Choose the atoms to shard over `size` ranks; none are chosen where none can be."""
    found = candidates(analysis, size)
    edges = conflicts(analysis, found)
    choices = []
    for price in PRICES:
        kept = independent_set([c.saved - price * c.cost for c in found], edges)
        choice = _choice(analysis, found, kept, size)
        choices.append(choice)
        if choice.heaviest <= 1 / size + SLACK:
            return choice
    choices = [choice for choice in choices if choice.chosen] or choices
    best = min(choice.heaviest for choice in choices)
    return next(choice for choice in choices if choice.heaviest <= best + NEAR_BEST)


def _choice(analysis: Analysis, found: Sequence[Candidate], kept: Set[int], size: int) -> Choice:
    chosen = tuple(found[k] for k in sorted(kept))
    layout = Layout(frozenset(candidate.atom for candidate in chosen), size)
    # Rank 0 has one index more wherever a size does not divide.
    share = rank_bytes(analysis, layout, 0) / (analysis.graph.weight_bytes or 1)
    return Choice(chosen, layout, share, tuple(found))


def candidates(analysis: Analysis, size: int) -> list[Candidate]:
    """Return the atoms that can be cut into `size` parts and save weights, in graph order."""
    found = []
    for atom, tensors, sites in shardable(analysis, size):
        layout = Layout(frozenset([atom]), size)
        weights = [t for t in tensors if _is_parameter(analysis, t, layout)]
        saved = sum(_saved(analysis, tensor, layout) for tensor in weights)
        if saved > 0:
            sent, calls = _traffic(analysis, sites, tensors, layout)
            found.append(Candidate(atom, saved, sent, tuple(t.name for t in weights), calls))
    return found


def shardable(
    analysis: Analysis, size: int
) -> Iterator[tuple[Axis, Sequence[Tensor], Sequence[Site]]]:
    """Yield the atoms that can be cut into `size` parts, the tensors and the sites they are in."""
    everything = analysis.tensors.values()
    banned = {atom for tensor in everything for atom in repeated(tensor) | mixed(tensor)}
    for atom, (tensors, sites) in _places(analysis).items():
        if atom in banned or not atom.size.is_static or atom.size.first < size:
            continue
        if _can_move(analysis, sites, tensors, Layout(frozenset([atom]), size)):
            yield atom, tensors, sites


def _is_parameter(analysis: Analysis, tensor: Tensor, layout: Layout) -> bool:
    """Say whether a tensor is a weight that is cut: small vectors of sizes are none."""
    if not tensor.is_weight or _needed_whole(analysis, tensor, layout):
        return False
    return analysis.graph.weights[tensor.name].nbytes >= INLINE_BYTES or not _is_int64(tensor)


def _is_int64(tensor: Tensor) -> bool:
    return tensor.data_type == TensorProto.INT64


def _places(analysis: Analysis) -> dict[Axis, tuple[list[Tensor], list[Site]]]:
    """Return for each atom the tensors that have it and the sites that see it, in graph order."""
    places: dict[Axis, tuple[dict[str, Tensor], list[Site]]] = {}
    for site in analysis.sites:
        for tensor in filter(None, (*site.inputs, *site.outputs)):
            for atom in tensor.atoms:
                tensors, sites = places.setdefault(atom, ({}, []))
                tensors[tensor.name] = tensor
                if not sites or sites[-1] is not site:
                    sites.append(site)
    return {atom: (list(tensors.values()), sites) for atom, (tensors, sites) in places.items()}


def _needed_whole(analysis: Analysis, tensor: Tensor, layout: Layout) -> bool:
    return any(is_opaque(site, layout) for site in analysis.readers.get(tensor.name, ()))


def is_opaque(site: Site, layout: Layout) -> bool:
    """Say whether a node must be given whole tensors under this layout."""
    if not layout.sharded.isdisjoint(site.whole_atoms):
        return True
    return any(
        layout.holds(entry.axis) and not layout.covers(entry.axis) for entry in site.contracted
    )


def partial_op(site: Site, layout: Layout) -> str | None:
    """Return what combines the ranks' outputs, None where each rank's is complete."""
    return next((e.op for e in site.contracted if layout.holds(e.axis)), None)


def _saved(analysis: Analysis, tensor: Tensor, layout: Layout) -> float:
    return analysis.graph.weights[tensor.name].nbytes * (1 - _held(tensor, layout, 0))


def _held(tensor: Tensor, layout: Layout, rank: int) -> float:
    return math.prod(float(layout.fraction(axis, rank)) for axis in tensor.axes)


def _gathered(analysis: Analysis, sites: Iterable[Site], layout: Layout) -> set[str]:
    """Return names of tensors that would be gathered, if they are sharded."""
    names = {value.name for value in analysis.graph.outputs}
    for site in sites:
        if is_opaque(site, layout):
            names |= {t.name for t in site.inputs if t is not None and not t.is_weight}
    return names


def _can_move(
    analysis: Analysis, sites: Iterable[Site], tensors: Iterable[Tensor], layout: Layout
) -> bool:
    """Say whether what must be gathered or sliced under a layout can be."""
    moved = _gathered(analysis, sites, layout) | {value.name for value in analysis.graph.inputs}
    moved |= {name for s in sites if is_opaque(s, layout) for name in s.node.output}
    try:
        for tensor in tensors:
            if tensor.name in moved and not tensor.is_weight:
                place(tensor, layout)
    except Conflict:
        return False
    return True


def _traffic(
    analysis: Analysis, sites: Iterable[Site], tensors: Iterable[Tensor], layout: Layout
) -> tuple[float, int]:
    """Return the bytes that a rank sends in rings of AllReduce and AllGather, and their number.

    States are left out: they may stay on their ranks until the next run.
    """
    names = _gathered(analysis, sites, layout) - analysis.states.keys()
    gathered = [tensor for tensor in tensors if tensor.name in names]
    reduced = [
        out
        for site in sites
        if partial_op(site, layout) and not is_opaque(site, layout)
        for out in site.outputs
        if out is not None
    ]
    moved = sum(usual_bytes(analysis, tensor) for tensor in (*reduced, *reduced, *gathered))
    return moved * (layout.size - 1) / layout.size, len(reduced) + len(gathered)


def usual_bytes(analysis: Analysis, tensor: Tensor) -> int:
    """Return the bytes of a tensor at the usual sizes."""
    shape = analysis.usual.get(tensor.name, tuple(size.first for size in tensor.shape))
    return math.prod(shape) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def conflicts(analysis: Analysis, found: Sequence[Candidate]) -> list[set[int]]:
    """Return for each candidate those that may not be sharded beside it."""
    number = {candidate.atom: k for k, candidate in enumerate(found)}
    edges: list[set[int]] = [set() for _ in found]
    for site in analysis.sites:
        # Of a node that runs whole whatever is cut, only tensors that have two atoms matter.
        groups: list[Iterable[Axis]] = [site.seen if site.seen - site.whole_atoms else ()]
        groups += [tensor.atoms for tensor in (*site.inputs, *site.outputs) if tensor]
        for group in groups:
            numbers = {number[atom] for atom in group if atom in number}
            for k in numbers:
                edges[k] |= numbers - {k}
    return edges


def independent_set(worth: Sequence[float], edges: Sequence[Set[int]]) -> set[int]:
    """Return the numbers of the pairwise compatible candidates that are worth most together.

    Branches on the one with the most conflicts; what is left falls into small components. All
    ranks come to the same answer: nothing depends on the order of a set of objects.
    """
    return _best({k for k, value in enumerate(worth) if value > 0}, worth, edges)


def _best(left: Set[int], worth: Sequence[float], edges: Sequence[Set[int]]) -> set[int]:
    kept = set[int]()
    for component in _components(left, edges):
        hub = max(component, key=lambda k: (len(edges[k] & component), -k))
        if len(component) == 1:
            kept.add(hub)
            continue
        with_hub = {hub} | _best(component - edges[hub] - {hub}, worth, edges)
        without = _best(component - {hub}, worth, edges)
        kept |= max(with_hub, without, key=lambda some: sum(worth[k] for k in sorted(some)))
    return kept


def _components(left: Set[int], edges: Sequence[Set[int]]) -> Iterator[set[int]]:
    rest = set(left)
    while rest:
        component, border = set[int](), {min(rest)}
        while border:
            component |= border
            border = {n for k in border for n in edges[k] & rest} - component
        rest -= component
        yield component


def rank_bytes(analysis: Analysis, layout: Layout, rank: int) -> float:
    """Return the bytes of weights that a rank holds."""
    return sum(
        weight.nbytes * _held_by(analysis, analysis.tensors[name], layout, rank)
        for name, weight in analysis.graph.weights.items()
    )


def _held_by(analysis: Analysis, tensor: Tensor, layout: Layout, rank: int) -> float:
    return 1.0 if _needed_whole(analysis, tensor, layout) else _held(tensor, layout, rank)
