"""Hints: what a person asks of the choice, by names of tensors and nodes.

A hint is a pattern, as of file names, and a layout: `whole`, or the dim to cut.

    "*.mlp.down_proj.weight": {dim: 0}
    "/lm_head/*": whole

A tensor that is to be whole keeps its axes from being cut anywhere; a node that is to be whole is
given whole tensors. A dim of a node is one of its first output. A dim as long as what is fed, such
as the sequence of a residual, is cut where sums over the ranks allow it (sequence.py). Hints come
before what is cheap, and one that cannot be kept is an error that says why.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import HintError
from .analysis import Analysis
from .axes import Axis, atoms, find
from .candidates import conflicts, obstacle, shardable
from .layout import Layout, is_opaque
from .site import Site, Tensor

ASKED = "a hint keeps it whole"

NEAR = 3
"""Names that are shown where a pattern matches none."""


class Hint(NamedTuple):
    """A pattern of names, and the dim to cut of what it matches; None: whole."""

    pattern: str
    dim: int | None

    def __str__(self) -> str:
        return f"hint {self.pattern!r}"


@dataclass(frozen=True)
class Wanted:
    """What hints come to: atoms that must be cut, and atoms that must not, each with its hint."""

    cut: Mapping[Axis, Hint] = field(default_factory=dict)
    whole: Mapping[Axis, Hint] = field(default_factory=dict)
    rows: Mapping[Axis, Hint] = field(default_factory=dict)
    """axes as long as what is fed, of which ranks are to have rows where sums allow it"""


def read_hints(path: str | Path) -> tuple[Hint, ...]:
    """Read a YAML file of hints. Raises OSError, HintError."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HintError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    return to_hints({} if given is None else given)


def to_hints(given: Any) -> tuple[Hint, ...]:
    """Read hints from a mapping of patterns to layouts. Raises HintError."""
    if isinstance(given, tuple):  # they are hints already
        return given
    if not isinstance(given, Mapping):
        raise HintError(
            f"expected patterns and layouts, as in {{'*.weight': 'whole'}}, got {given!r}"
        )
    return tuple(Hint(str(pattern), _dim(pattern, layout)) for pattern, layout in given.items())


def _dim(pattern: object, layout: Any) -> int | None:
    if layout == "whole":
        return None
    if isinstance(layout, Mapping) and list(layout) == ["dim"] and type(layout["dim"]) is int:
        return int(layout["dim"])
    raise HintError(
        f"expected whole or a dim, as in {{dim: 1}}, as the layout of hint {pattern!r}, "
        f"got {layout!r}"
    )


def whole_nodes(analysis: Analysis, hints: Sequence[Hint]) -> dict[str, str]:
    """Return the nodes that are to be computed whole, by their first output, with the reason."""
    return {
        site.node.output[0]: ASKED
        for hint in hints
        for site in analysis.sites
        if hint.dim is None and fnmatchcase(site.node.name, hint.pattern)
    }


def resolve(analysis: Analysis, size: int, hints: Sequence[Hint]) -> Wanted:
    """Find the atoms that hints are about. Raises HintError."""
    cut, whole, rows = dict[Axis, Hint](), dict[Axis, Hint](), dict[Axis, Hint]()
    possible = {atom for atom, _, _ in shardable(analysis, size)} if hints else set()
    for hint in hints:
        for tensor in _matched(analysis, hint):
            if hint.dim is None:
                whole |= dict.fromkeys(tensor.atoms, hint)
            elif (open_axis := _open_axis(tensor, hint.dim)) is not None:
                rows |= {open_axis: hint} if size > 1 else {}
            elif size > 1:
                cut[_atom(analysis, size, hint, tensor, possible)] = hint
    _check(analysis, cut, whole, rows)
    return Wanted(cut, whole, rows)


def _open_axis(tensor: Tensor, dim: int) -> Axis | None:
    """Return what a dim is, if it is as long as what is fed."""
    axis = tensor.axes[dim] if -tensor.rank <= dim < tensor.rank else None
    return None if axis is None or axis.size.is_static else find(axis)


def _matched(analysis: Analysis, hint: Hint) -> Iterator[Tensor]:
    """Yield the tensors that a hint is about. Raises HintError where it matches no name."""
    names = {name for name in analysis.tensors if fnmatchcase(name, hint.pattern)}
    sites = [site for site in analysis.sites if fnmatchcase(site.node.name, hint.pattern)]
    if not names and not sites:
        raise HintError(f"{hint} matches no tensor and no node; {_near(analysis, hint)}")
    if hint.dim is not None:
        names |= {site.output().name for site in sites}
    yield from (analysis.tensors[name] for name in sorted(names))


def _near(analysis: Analysis, hint: Hint) -> str:
    names = sorted({*analysis.tensors, *(site.node.name for site in analysis.sites)})
    plain = hint.pattern.replace("*", "")
    found = difflib.get_close_matches(plain, names, NEAR, cutoff=0.3)
    return f"near it: {', '.join(found)}" if found else "rankwise inspect shows names"


def _atom(analysis: Analysis, size: int, hint: Hint, tensor: Tensor, possible: set[Axis]) -> Axis:
    """Return the outermost atom of a dim that can be cut. Raises HintError."""
    assert hint.dim is not None
    if not -tensor.rank <= hint.dim < tensor.rank:
        raise HintError(
            f"{hint} cuts dim {hint.dim}, but {tensor.name!r} has "
            + (f"dims 0 to {tensor.rank - 1}" if tensor.rank else "no dims that are known")
        )
    reasons = []
    for atom in atoms(tensor.axes[hint.dim]):
        reason = _obstacle(analysis, size, tensor, atom, possible)
        if reason is None:
            return atom
        reasons.append(reason)
    why = reasons[0] if reasons else "it is of size 1"
    raise HintError(f"{hint} cannot cut dim {hint.dim} of {tensor.name!r}: {why}")


def _obstacle(
    analysis: Analysis, size: int, tensor: Tensor, atom: Axis, possible: set[Axis]
) -> str | None:
    """Say why a tensor cannot be cut along an atom, None if it can."""
    if atom not in possible:
        return obstacle(analysis, atom, size)
    site = _needing(analysis, tensor, Layout.along([atom], size, analysis.nested))
    if site is None:
        return None
    reason = f", since {site.obstacle}" if site.obstacle else ""
    return f"{site.node.op_type} {site.name!r} needs it whole{reason}"


def _needing(analysis: Analysis, tensor: Tensor, layout: Layout) -> Site | None:
    """Return a node for whose sake a tensor could not be cut.

    Any that reads a weight; of other tensors one only if none at all takes it in parts.
    """
    readers = analysis.readers.get(tensor.name, [])
    around = [*readers, *(s for s in analysis.sites if tensor.name in s.node.output)]
    opaque = [site for site in around if is_opaque(site, layout)]
    if tensor.is_weight:
        return opaque[0] if opaque else None
    return opaque[0] if len(opaque) == len(around) and opaque else None


def _holds_both(site: Site, a: Axis, b: Axis) -> bool:
    tensors = filter(None, (*site.inputs, *site.outputs))
    excludes = {a, b} <= site.exclusive and b not in site.goes_with(a)
    return excludes or any({a, b} <= set(t.atoms) for t in tensors)


def _check(
    analysis: Analysis,
    cut: Mapping[Axis, Hint],
    whole: Mapping[Axis, Hint],
    rows: Mapping[Axis, Hint],
) -> None:
    """Raise HintError where hints contradict each other."""
    for axis, hint in {**cut, **rows}.items():
        for atom in atoms(axis):
            if atom in whole:
                raise HintError(f"{hint} cuts what {whole[atom]} keeps whole: an axis of {atom!r}")
    row = list(cut)
    for atom, excluded in zip(row, conflicts(analysis, row), strict=True):
        for other in (row[k] for k in sorted(excluded)):
            place = next(site for site in analysis.sites if _holds_both(site, atom, other))
            raise HintError(
                f"{cut[atom]} cuts an axis of {atom!r} and {cut[other]} one of {other!r}, but "
                f"{place.node.op_type} {place.name!r} has both, and takes one of them in parts"
            )
