"""Layouts: which part of an axis a rank holds, once some atoms are sharded.

An atom that is sharded is cut as numpy.array_split cuts; a product keeps the combinations of its
factors' parts, a sum the parts of each of its parts. So a rank's share of a dim is a set of
indices: three heads of a packed, interleaved dim are as ordinary as a slab.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from ..weights import IndexSet, bounds
from .axes import Axis, Size, atoms, find, leaves, pieces
from .site import Site


@dataclass(frozen=True)
class Layout:
    """How the axes of a graph lie on `size` ranks."""

    sharded: Set[Axis]
    """atoms that are cut: into one part per rank, unless `nested` says otherwise"""
    size: int
    """number of ranks"""
    nested: Mapping[Axis, Axis] = field(default_factory=dict)
    """atoms of which those that are cut are so within parts of another, of as many parts as it
    has elements: the others of a rank's group have the same part of that one"""
    scattered: Mapping[str, int] = field(default_factory=dict)
    """sums of which each rank gets its rows along a dim, by the names of tensors"""
    rows: Mapping[str, int] = field(default_factory=dict)
    """tensors of which each rank makes its rows alone"""

    @classmethod
    def along(cls, atoms: Iterable[Axis], size: int, nested: Mapping[Axis, Axis]) -> Layout:
        """Cut along atoms, and along those that they are nested in."""
        inner = frozenset(atoms)
        used = {atom: nested[atom] for atom in inner if atom in nested}
        return cls(inner | frozenset(used.values()), size, used)

    def row_dim(self, name: str) -> int | None:
        """Return the dim of which a rank first has its rows; None where it has all."""
        return self.rows.get(name, self.scattered.get(name))

    def holds(self, axis: Axis | None) -> bool:
        """Say whether any atom of an axis is sharded."""
        return any(atom in self.sharded for atom in atoms(axis))

    def covers(self, axis: Axis) -> bool:
        """Say whether the ranks' shares of an axis are disjoint: no part of it is replicated."""
        axis = find(axis)
        if axis.kind == "sum":
            return all(self.covers(part) for part in axis.parts)
        row = leaves(axis)
        if any(leaf.kind == "sum" and self.covers(leaf) for leaf in row):
            return True
        cut = self.sharded & set(row)
        return any(self.nested.get(atom, atom) in cut for atom in cut - self._outer)

    @property
    def _outer(self) -> Set[Axis]:
        """Atoms that others are nested in."""
        return set(self.nested.values())

    def local(self, axis: Axis | None, rank: int) -> Size:
        """Return the size of a rank's share."""
        if axis is None:
            return Size(1, 1)
        axis = find(axis)
        if axis.kind == "atom":
            return Size(*(self._count(axis, n, rank) for n in axis.size))
        result = Size(1, 1) if axis.kind == "product" else Size(0, 0)
        for part in axis.parts:
            share = self.local(part, rank)
            result = result.times(share) if axis.kind == "product" else result.plus(share)
        return result

    def _count(self, atom: Axis, total: int, rank: int) -> int:
        if atom not in self.sharded:
            return total
        start, stop = bounds(total, *self.part(atom, rank))
        return stop - start

    def part(self, atom: Axis, rank: int) -> tuple[int, int]:
        """Return which part of a sharded atom a rank has, and of how many."""
        if atom in self.nested:
            each = self.size // self.nested[atom].size.first
            return rank % each, each
        if atom in self._outer:
            count = atom.size.first
            return rank // (self.size // count), count
        return rank, self.size

    def fraction(self, axis: Axis | None, rank: int) -> Fraction:
        """Return a rank's share of an axis."""
        if axis is None or not self.holds(axis):
            return Fraction(1)
        return Fraction(self.local(axis, rank).first, axis.size.first)

    def indices(self, axis: Axis | None, rank: int) -> IndexSet:
        """Return the indices of a static dim that a rank holds; None stands for all of them."""
        if axis is None or not self.holds(axis):
            return None
        axis = find(axis)
        if axis.kind == "atom":
            return np.arange(*bounds(axis.size.first, *self.part(axis, rank)))
        if axis.kind == "sum":
            return self._of_sum(axis, rank)
        kept = np.zeros(1, np.int64)
        for leaf in leaves(axis):
            inner = self.indices(leaf, rank)
            inner = np.arange(leaf.size.first) if inner is None else inner
            kept = (kept[:, None] * leaf.size.first + inner).reshape(-1)
        return kept

    def _of_sum(self, axis: Axis, rank: int) -> IndexSet:
        start, kept = 0, []
        for piece in pieces(axis):
            inner = self.indices(piece, rank)
            inner = np.arange(piece.size.first) if inner is None else inner
            kept.append(start + inner)
            start += piece.size.first
        return np.concatenate(kept)


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
