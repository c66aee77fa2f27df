"""Levels: the places of an image at several resolutions, which ranks have runs of together.

A stride makes another axis of the places. Each may be cut by itself, but it is along a chain of
them that an image stays on its ranks: down to some resolution, where it is small and its channels
are many.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from .analysis import Analysis
from .axes import Axis, atoms


def mates(analysis: Analysis) -> dict[Axis, set[Axis]]:
    """Return for each atom of places those that a kernel goes to from it, or comes from."""
    found = dict[Axis, set[Axis]]()
    for site in analysis.sites:
        for window in site.windows:
            for atom in (*atoms(window.given), *atoms(window.made)):
                found.setdefault(atom, set()).update(site.goes_with(atom))
    return found


def level_sets(analysis: Analysis, possible: Collection[Axis]) -> Iterator[tuple[Axis, ...]]:
    """Yield the atoms of an image that may be cut at once, from the finest down to each level."""
    for row in _images(mates(analysis), possible):
        for least in sorted({atom.size.first for atom in row}, reverse=True):
            yield tuple(atom for atom in row if atom.size.first >= least)


def _images(
    beside: Mapping[Axis, Collection[Axis]], possible: Collection[Axis]
) -> Iterator[list[Axis]]:
    """Yield the atoms that lead to one another, in graph order."""
    seen = set[Axis]()
    for first in beside:
        image, border = set[Axis](), {first} - seen
        while border:
            image |= border
            border = {mate for atom in border for mate in beside[atom]} - image
        seen |= image
        if row := [atom for atom in beside if atom in image and atom in possible]:
            yield row
