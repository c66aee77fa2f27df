"""Random layouts of a graph, run on the ranks of one process and compared with the whole graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import ranks
from comparison import assert_same
from numpy.random import Generator
from onnx import TensorProto

from rankwise.models.errors import NothingToShard
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding.analysis import Analysis, analyse
from rankwise.models.sharding.candidates import conflicts, shardable
from rankwise.models.sharding.independent import independent_set
from rankwise.models.sharding.write import Sharding, plan_analysed

from .draft import Drawn
from .values import Array

TOLERANCE = (1e-4, 1e-5)
"""What rounding to float32 may make of an element, as a part of itself and of the largest, in a
graph that may enlarge a difference as much as `values.DRIFT` lets it."""

Outputs = list[list[Array]]
"""By what is fed, and by output."""


class Checked(NamedTuple):
    """What was found of one graph."""

    layouts: int
    operators: frozenset[tuple[str, str]]
    """domains and operators that ran on parts under some layout"""
    differences: tuple[str, ...]


def check(drawn: Drawn, size: int, rng: Generator, most: int | None = None) -> Checked:
    """Run a graph under all that `layouts` yields, or under so many of them at most."""
    differences, parted = list[str](), set[tuple[str, str]]()
    try:
        options = ranks.quiet()
        options.enable_mem_reuse = False  # of some shapes onnxruntime is wrong
        session = onnxruntime.InferenceSession(drawn.model.SerializeToString(), options)
        expected = [session.run(None, feeds) for feeds in drawn.feeds]
    except Exception:  # of some it is so wrong that it refuses the whole
        return Checked(0, frozenset(), ())
    try:
        analysis = analyse(load(drawn.model))
        found = list(layouts(analysis, size, rng))
    except Exception as error:  # whatever fails here is a finding, as below
        return Checked(0, frozenset(), (f"before a layout: {type(error).__name__}: {error}",))
    kept = sorted(rng.permutation(len(found))[:most].tolist())
    for name, sharding in (found[k] for k in kept):
        parted |= ranks.on_parts(sharding)
        try:
            difference = compare(run(sharding, drawn), expected, rounded(analysis))
        except Exception as error:
            difference = f"{type(error).__name__}: {error}"
        if difference:
            differences.append(f"{name} cut over {size} ranks: {difference}")
    return Checked(len(kept), frozenset(parted), tuple(differences))


def layouts(analysis: Analysis, size: int, rng: Generator) -> Iterator[tuple[str, Sharding]]:
    """Yield layouts: as they are, and with all on rows that can run so between sums."""
    for name, sharding in _cuts(analysis, size, rng):
        yield name, sharding
        on_rows = ranks.on_rows(sharding, rng)
        if on_rows.choice.regions:
            yield f"{name}, on rows,", on_rows


def _cuts(analysis: Analysis, size: int, rng: Generator) -> Iterator[tuple[str, Sharding]]:
    """Yield what is chosen, each atom by itself, and two sets of atoms that may be cut at once."""
    try:
        yield "what is chosen", plan_analysed(analysis, Mesh(tp=size))
    except NothingToShard:
        """Atoms without weights may still be cut."""
    atoms = [
        atom
        for atom, _, sites in shardable(analysis, size)
        if any(atom not in site.whole_atoms for site in sites)
    ]
    for atom in atoms:
        yield repr(atom), ranks.cut_along(analysis, atom, size)
    for _ in range(2):
        worth = [rng.random() for _ in atoms]
        kept = independent_set(worth, conflicts(analysis, atoms))
        if len(kept) > 1:
            both = [atoms[k] for k in sorted(kept)]
            yield " and ".join(map(repr, both)), ranks.cut_along(analysis, both, size)


def run(sharding: Sharding, drawn: Drawn) -> list[Outputs]:
    """Return the outputs of every rank."""
    with tempfile.TemporaryDirectory() as name:
        return ranks.run_each(sharding, drawn.feeds, Path(name))


def compare(got: list[Outputs], expected: Outputs, rounded: Sequence[bool]) -> str:
    """Say where a rank's output differs, "" if none does.

    `rounded` tells of each output whether float32 has been computed on the way to it.
    """
    for rank, runs in enumerate(got):
        for outputs, wanted in zip(runs, expected, strict=True):
            for number, (a, b) in enumerate(zip(outputs, wanted, strict=True)):
                try:
                    assert_same(a, b, TOLERANCE if rounded[number] else None)
                except AssertionError as error:
                    words = " ".join(str(error).split())
                    return f"output {number} of rank {rank} differs: {words}"
    return ""


def rounded(analysis: Analysis) -> list[bool]:
    """Say of each output whether a node on the way to it has computed float32."""
    found = set[str]()
    for site in analysis.sites:
        made = [tensor for tensor in site.outputs if tensor is not None]
        is_float = any(tensor.data_type == TensorProto.FLOAT for tensor in made)
        if is_float or not found.isdisjoint(site.node.input):
            found |= {tensor.name for tensor in made}
    return [value.name in found for value in analysis.graph.outputs]
