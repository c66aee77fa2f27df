"""What could run on each rank's rows: the nodes between sums over the ranks and what needs all.

A region grows behind the sums, from node to node as far as rows along one axis pass, and loses
again the nodes behind which it is dearer to gather than before them. The rows are as many as are
fed, so that a rank may have none: a region has only operators that take no rows at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from ..nodes import draws
from ..weights import bounds
from .analysis import Analysis, usual_bytes
from .axes import Axis, are_alike, atoms
from .layout import Layout
from .machine import HERE, Machine, Transfer
from .partials import carried, passed_on, reduced
from .relayout import MOVABLE
from .rules import BROADCAST, ELEMENTWISE, VARIADIC
from .site import Site, Tensor
from .spread.batch import OLDEST
from .workload import Work, work

BY_ROW = {
    *ELEMENTWISE.split(), *BROADCAST.split(), *VARIADIC.split(), "BiasGelu", "Clip", "Dropout",
    "FastGelu", "FusedMatMul", "Gemm", "LayerNormalization", "LogSoftmax", "MatMul",
    "MatMulNBits", "QuickGelu", "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Softmax", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
"""Operators that are the same node for some rows as for all, and that take none."""


@dataclass(frozen=True)
class Region:
    """Nodes between sums over the ranks and what needs all rows again."""

    axis: Axis
    """what its rows are counted along"""
    sums: frozenset[str]
    """the sums as they would be reduced for all ranks"""
    scattered: Mapping[str, int]
    """the same, or what a Reshape makes of them, with the dim of the rows"""
    rows: Mapping[str, int]
    """what its nodes make"""
    nodes: int
    gathered: frozenset[str]
    """those of the latter two that something needs whole"""
    saved: float
    """seconds of computing that the first rank leaves to others in a run, without steps"""
    spent: float
    """seconds by which its collectives take longer"""
    outcome: str = ""
    """what came of it"""
    is_taken: bool = False

    def overlaps(self, other: Region) -> bool:
        """Say whether two regions have a tensor in common."""
        names = {*self.sums, *self.scattered, *self.rows}
        return not names.isdisjoint({*other.sums, *other.scattered, *other.rows})

    def added_to(self, layout: Layout) -> Layout:
        """Return a layout under which the region runs on rows too."""
        scattered, rows = {**layout.scattered, **self.scattered}, {**layout.rows, **self.rows}
        return replace(layout, scattered=scattered, rows=rows)


def regions(analysis: Analysis, layout: Layout, machine: Machine = HERE) -> Iterator[Region]:
    """Yield the regions that could run on rows, without nodes that lose by it."""
    if layout.size == 1:
        return
    sums = list(reduced(analysis, layout))
    for axis in axes(analysis, layout, sums):
        grown = Growth(analysis, layout, machine, axis, sums)
        grown.prune()
        yield from grown.parts()


def axes(analysis: Analysis, layout: Layout, sums: Iterable[Tensor]) -> Iterator[Axis]:
    """Yield the axes of sums that are cut nowhere, and of what Reshapes make of sums.

    None before the opset in which Slice takes where to cut as inputs.
    """
    if analysis.graph.opsets.get("", 1) < OLDEST:
        return
    seen = list[Axis]()
    for tensor in sums:
        made: Tensor | None = tensor
        while made is not None:
            for axis in made.axes:
                if axis is not None and not any(are_alike(axis, other) for other in seen):
                    seen.append(axis)
                    if not layout.holds(axis):
                        yield axis
            made = passed_on(analysis, layout, made)


class Entry(NamedTuple):
    """Where the rows of a sum begin."""

    sum: Tensor
    tensor: Tensor
    """the sum, or what a Reshape makes of it"""


class Growth:
    """All that can run on rows along an atom, until it is pruned."""

    def __init__(
        self, analysis: Analysis, layout: Layout, machine: Machine, axis: Axis,
        sums: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.analysis, self.layout, self.machine, self.axis = analysis, layout, machine, axis
        self._atoms = set(atoms(axis))
        self._carried = carried(analysis, layout)
        self._given = {value.name for value in analysis.graph.outputs}
        entries = (self._entry(tensor) for tensor in sums)
        self.entries = {entry.tensor.name: entry for entry in entries if entry is not None}
        self.sites = dict[str, Site]()
        """those that run on rows, by each of their outputs"""
        for site in analysis.outermost:
            if any(map(self._has_rows, site.node.input)) and self._passes(site):
                self.sites |= dict.fromkeys(filter(None, site.node.output), site)

    def _has_rows(self, name: str) -> bool:
        return name in self.entries or name in self.sites

    def _entry(self, tensor: Tensor) -> Entry | None:
        made: Tensor | None = tensor
        while made is not None and made.dim_of(self.axis) is None:
            made = passed_on(self.analysis, self.layout, made)
        return None if made is None else Entry(tensor, made)

    def _passes(self, site: Site) -> bool:
        """Say whether a node makes rows of rows."""
        is_known = site.node.op_type in BY_ROW and site.obstacle is None
        if not is_known or draws(site.node) or not self._carried.isdisjoint(site.node.input):
            return False
        summed = {atom for entry in site.contracted for atom in atoms(entry.axis)}
        if self._atoms & (site.whole_atoms | summed) or site.seen & self.layout.sharded:
            return False
        made, read = filter(None, site.outputs), filter(None, site.inputs)
        return all(
            t.dim_of(self.axis) is not None and t.data_type in MOVABLE and t.name in self._usual
            for t in made
        ) and all(t.dim_of(self.axis) is not None or self._atoms.isdisjoint(t.atoms) for t in read)

    @property
    def _usual(self) -> Mapping[str, tuple[int, ...]]:
        return self.analysis.usual

    def prune(self) -> None:
        """Leave out nodes that cost more to gather behind than before, the last ones first."""
        for site in reversed(self.analysis.outermost):
            if not self._is_in(site):
                continue
            made = {name for name in site.node.output if name}
            behind = sum(map(self._gathering, filter(self._is_gathered, made)))
            read = {name for name in site.node.input if self._has_rows(name)}
            before = sum(self._gathering(n) for n in read if not self._is_gathered(n))
            if behind > before + self._saved(site):
                for name in made:
                    del self.sites[name]

    def _is_in(self, site: Site) -> bool:
        return any(name in self.sites for name in site.node.output)

    def _is_gathered(self, name: str) -> bool:
        """Say whether anything needs a tensor whole."""
        readers = self.analysis.readers.get(name, ())
        return name in self._given or not all(map(self._is_in, readers))

    def _gathering(self, name: str) -> float:
        return self.machine.cut + self._moving("AllGather", self.analysis.tensors[name])

    def _moving(self, op_type: str, tensor: Tensor) -> float:
        nbytes = usual_bytes(self.analysis, tensor)
        return self.machine.moving([Transfer(op_type, nbytes, self.layout.size)])

    def _saved(self, site: Site) -> float:
        """Return the seconds of a node that the first rank leaves to others."""
        whole = work(self.analysis, site)._replace(read=0.0)
        return self._left * self.machine.computing(whole)

    @cached_property
    def _left(self) -> float:
        """The part of the rows that the first rank leaves to others, at the usual sizes."""
        entry = next(iter(self.entries.values())).tensor
        length = self.analysis.usual[entry.name][self._dim(entry.name)]
        return 1 - bounds(length, 0, self.layout.size)[1] / length if length else 0.0

    def _dim(self, name: str) -> int:
        dim = self.analysis.tensors[name].dim_of(self.axis)
        assert dim is not None
        return dim

    def parts(self) -> Iterator[Region]:
        """Yield what hangs together, with its price."""
        groups = list[set[str]]()
        for site in self.analysis.outermost:
            if self._is_in(site):
                names = {name for name in site.node.input if self._has_rows(name)}
                names.update(filter(None, site.node.output))
                touched = [group for group in groups if group & names]
                groups = [group for group in groups if not group & names]
                groups.append(names.union(*touched))
        yield from map(self._region, groups)

    def _region(self, names: Set[str]) -> Region:
        entries = [entry for name, entry in self.entries.items() if name in names]
        made = [name for name in self.sites if name in names]
        gathered = sorted(filter(self._is_gathered, names))
        sites = {id(site): site for site in map(self.sites.__getitem__, made)}.values()
        spent = sum(map(self._gathering, gathered))
        for entry in entries:
            spent += self._moving("ReduceScatter", entry.sum)
            spent -= self._moving("AllReduce", entry.sum)
        return Region(
            self.axis,
            frozenset(entry.sum.name for entry in entries),
            {entry.tensor.name: self._dim(entry.tensor.name) for entry in entries},
            {name: self._dim(name) for name in made},
            len(sites),
            frozenset(gathered),
            sum(map(self._saved, sites)) - self._cutting(sites),
            spent,
        )

    def _cutting(self, sites: Iterable[Site]) -> float:
        """Return the seconds in which the first rank cuts its rows out of whole tensors."""
        read = {t.name: t for site in sites for t in site.inputs if t is not None}
        cut = [
            t for name, t in read.items() if not self._has_rows(name) and self._atoms & {*t.atoms}
        ]
        made = sum(math.prod(self.analysis.usual.get(t.name, ())) for t in cut)
        return self.machine.computing(Work(made=made * (1 - self._left)))
