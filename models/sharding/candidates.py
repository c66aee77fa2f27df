"""The atoms that could be sharded: what each saves, what it moves, and which exclude each other.

An atom saves the bytes of weights that a rank need not hold, and the seconds of the multiply-adds
and of the reading that a rank leaves to others. It moves, in a run, an AllReduce where it is
summed over, an AllGather where a node or an output needs it whole. Two atoms that one node sees
exclude each other, since a tensor that is cut along both would leave each rank a block of the
diagonal.

What is saved and spent adds up over atoms, which is what makes the choice exact. So it cannot see
that partial sums that meet are reduced once (partials.py), that two nodes share a gathered tensor,
or that parts in half precision are summed in float32. Nor does it see a processor's caches, or how
well a kernel does: all multiply-adds take the same time, and all elements made. It looks at a text
of ordinary length; at longer ones attention and caches count for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from onnx import TensorProto

from ..weights import INLINE_BYTES
from .analysis import Analysis, mixed, repeated, usual_bytes
from .axes import Axis, Conflict
from .exchanges import exchanges
from .layout import Layout, is_opaque, partial_op
from .machine import HERE, Machine, Transfer
from .relayout import place
from .site import Site, Tensor
from .workload import Work, local_work, share, work


@dataclass(frozen=True)
class Candidate:
    """An atom that could be sharded."""

    atom: Axis
    weights: tuple[str, ...]
    """names of the weights that it cuts"""
    saved: float
    """bytes of weights that the heaviest rank need not hold"""
    gained: float
    """seconds of computing that the heaviest rank need not spend in a run of the usual size"""
    spent: float
    """seconds of its collectives"""
    moved: tuple[Transfer, ...]
    """its collectives"""

    @property
    def is_stepwise(self) -> bool:
        """Say whether it needs collectives in every step of a sequence."""
        return any(each.is_token for each in self.moved)

    @property
    def sent(self) -> float:
        """Bytes that a rank sends for it in a run."""
        return sum(each.sent for each in self.moved)


def candidates(
    analysis: Analysis, size: int, machine: Machine = HERE, asked: Set[Axis] = frozenset()
) -> list[Candidate]:
    """Return the atoms that can be cut into `size` parts, in graph order.

    They are those that save weights, and those that are asked for.
    """
    every = {id(site): work(analysis, site) for site in analysis.sites}
    found = []
    for atom, tensors, sites in shardable(analysis, size):
        layout = Layout.along([atom], size, analysis.nested)
        weights = [t for t in tensors if _is_parameter(analysis, t, layout)]
        saved = sum(_saved(analysis, tensor, layout) for tensor in weights)
        if saved > 0 or atom in asked:
            gained = sum(
                machine.computing(
                    _left_to_others(analysis, site, every[id(site)], layout), analysis.steps
                )
                for site in sites
            )
            moved = tuple(_transfers(analysis, sites, tensors, layout))
            spent = machine.moving(moved, analysis.steps)
            names = tuple(tensor.name for tensor in weights)
            found.append(Candidate(atom, names, saved, gained, spent, moved))
    return found


def _left_to_others(analysis: Analysis, site: Site, whole: Work, layout: Layout) -> Work:
    # Rank 0 has one index more wherever a size does not divide.
    return whole.minus(local_work(analysis, site, whole, layout, 0))


def shardable(
    analysis: Analysis, size: int
) -> Iterator[tuple[Axis, Sequence[Tensor], Sequence[Site]]]:
    """Yield the atoms that can be cut into `size` parts, the tensors and the sites they are in."""
    everything = analysis.tensors.values()
    banned = {atom for tensor in everything for atom in repeated(tensor) | mixed(tensor)}
    places, nested = _places(analysis), analysis.nested
    for atom, (tensors, sites) in places.items():
        outer = nested.get(atom)
        parts = size if outer is None else size // outer.size.first
        if {atom, outer} & banned or not atom.size.is_static or atom.size.first < parts:
            continue
        if outer is not None:
            tensors = list({t.name: t for t in (*tensors, *places[outer][0])}.values())
            sites = list({id(site): site for site in (*sites, *places[outer][1])}.values())
        if _can_move(analysis, sites, tensors, Layout.along([atom], size, nested)):
            yield atom, tensors, sites


def obstacle(analysis: Analysis, atom: Axis, size: int) -> str:
    """Say why an atom is not shardable over `size` ranks."""
    if not atom.size.is_static:
        return "its size depends on what is fed"
    if atom.size.first < size:
        return f"its {atom.size.first} parts are fewer than {size} ranks"
    for tensor in analysis.tensors.values():
        if atom in repeated(tensor):
            return f"{tensor.name!r} has it twice"
        if atom in mixed(tensor):
            return f"in {tensor.name!r} it lies beside a part whose size depends on what is fed"
    return "it could not be gathered where it is needed whole"


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


def _saved(analysis: Analysis, tensor: Tensor, layout: Layout) -> float:
    return analysis.graph.weights[tensor.name].nbytes * (1 - share(tensor, layout, 0))


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
    moved |= {out.name for s in sites if is_opaque(s, layout) for out in s.outputs if out}
    try:
        for tensor in tensors:
            if tensor.name in moved and not tensor.is_weight:
                place(tensor, layout)
    except Conflict:
        return False
    return True


def _transfers(
    analysis: Analysis, sites: Iterable[Site], tensors: Iterable[Tensor], layout: Layout
) -> Iterator[Transfer]:
    """Yield the collectives of an atom. States are left out: they may stay on their ranks."""
    for site in sites:
        if partial_op(site, layout) and not is_opaque(site, layout):
            for out in filter(None, site.outputs):
                nbytes = usual_bytes(analysis, out)
                yield from [Transfer("AllReduce", nbytes, layout.size)] * analysis.times(out)
        if any(map(layout.holds, site.gathered)) and not is_opaque(site, layout):
            yield from exchanges(analysis, site, layout.size)
    names = _gathered(analysis, sites, layout) - analysis.states.keys()
    for tensor in tensors:
        if tensor.name in names:
            nbytes = usual_bytes(analysis, tensor)
            yield from [Transfer("AllGather", nbytes, layout.size)] * analysis.times(tensor)


def conflicts(analysis: Analysis, found: Sequence[Axis]) -> list[set[int]]:
    """Return for each atom the numbers of those that may not be sharded beside it."""
    number = {analysis.nested[a]: k for k, a in enumerate(found) if a in analysis.nested}
    number |= {atom: k for k, atom in enumerate(found)}
    edges: list[set[int]] = [set() for _ in found]
    for site in analysis.sites:
        # Of a node that runs whole whatever is cut, only tensors that have two atoms matter.
        groups: list[Iterable[Axis]] = [site.exclusive]
        groups += [tensor.atoms for tensor in (*site.inputs, *site.outputs) if tensor]
        for group in groups:
            numbers = {number[atom] for atom in group if atom in number}
            for k in numbers:
                edges[k] |= numbers - {k}
    return edges


def rank_bytes(analysis: Analysis, layout: Layout, rank: int) -> float:
    """Return the bytes of weights that a rank holds."""
    return sum(
        weight.nbytes * _held_by(analysis, analysis.tensors[name], layout, rank)
        for name, weight in analysis.graph.weights.items()
    )


def _held_by(analysis: Analysis, tensor: Tensor, layout: Layout, rank: int) -> float:
    return 1.0 if _needed_whole(analysis, tensor, layout) else share(tensor, layout, rank)
