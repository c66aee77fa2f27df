"""Random layouts of a graph, run on the ranks of one process and compared with the whole graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.random import Generator

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import NothingToShard
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding.analysis import Analysis, analyse
from rankwise.models.sharding.axes import Axis
from rankwise.models.sharding.candidates import conflicts, shardable
from rankwise.models.sharding.independent import independent_set
from rankwise.models.sharding.layout import Layout, is_opaque
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, plan_analysed, write_part

from .draft import Drawn
from .values import Array, quiet

RTOL, ATOL = 1e-4, 1e-4
"""The second is a part of the largest element."""

TIMEOUT_S = 60.0

Outputs = list[list[Array]]
"""By what is fed, and by output."""


class Checked(NamedTuple):
    """What was found of one graph."""

    layouts: int
    operators: frozenset[str]
    """those that ran on parts under some layout"""
    differences: tuple[str, ...]


def check(drawn: Drawn, size: int, rng: Generator, most: int | None = None) -> Checked:
    """Run a graph under all that `layouts` yields, or under so many of them at most."""
    differences, parted = list[str](), set[str]()
    try:
        options = quiet()
        options.enable_mem_reuse = False  # of some shapes onnxruntime is wrong
        session = onnxruntime.InferenceSession(drawn.model.SerializeToString(), options)
        expected = [session.run(None, feeds) for feeds in drawn.feeds]
    except Exception:  # of some it is so wrong that it refuses the whole
        return Checked(0, frozenset(), ())
    try:
        found = list(layouts(analyse(load(drawn.model)), size, rng))
    except Exception as error:  # whatever fails here is a finding, as below
        return Checked(0, frozenset(), (f"before a layout: {type(error).__name__}: {error}",))
    kept = sorted(rng.permutation(len(found))[:most].tolist())
    for name, sharding in (found[k] for k in kept):
        parted |= on_parts(sharding)
        try:
            difference = compare(run(sharding, drawn), expected)
        except Exception as error:
            difference = f"{type(error).__name__}: {error}"
        if difference:
            differences.append(f"{name} cut over {size} ranks: {difference}")
    return Checked(len(kept), frozenset(parted), tuple(differences))


def layouts(analysis: Analysis, size: int, rng: Generator) -> Iterator[tuple[str, Sharding]]:
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
        yield repr(atom), _sharding(analysis, size, [atom])
    for _ in range(2):
        worth = [rng.random() for _ in atoms]
        kept = independent_set(worth, conflicts(analysis, atoms))
        if len(kept) > 1:
            both = [atoms[k] for k in sorted(kept)]
            yield " and ".join(map(repr, both)), _sharding(analysis, size, both)


def _sharding(analysis: Analysis, size: int, atoms: list[Axis]) -> Sharding:
    choice = Choice((), Layout(frozenset(atoms), size), 0.0, ())
    return Sharding(analysis, Mesh(tp=size), choice)


def on_parts(sharding: Sharding) -> set[str]:
    """Return the operators of which a node runs on parts."""
    layout = sharding.choice.layout
    return {
        site.node.op_type
        for site in sharding.analysis.sites
        if not layout.sharded.isdisjoint(site.seen) and not is_opaque(site, layout)
    }


def run(sharding: Sharding, drawn: Drawn) -> list[Outputs]:
    """Return the outputs of every rank."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in sharding.parts:
            write_part(sharding, part, folder / f"{part.rank}.onnx", lambda done, total: None)
        if sharding.parts[0].collectives:
            return local.run(sharding.mesh.size, partial(_work, folder, drawn), timeout=TIMEOUT_S)
        # A session would shard such a part once more.
        return [_alone(folder / f"{part.rank}.onnx", drawn) for part in sharding.parts]


def _work(folder: Path, drawn: Drawn, comm: Communicator) -> Outputs:
    with InferenceSession(folder / f"{comm.rank}.onnx", quiet(), comm=comm) as session:
        return [session.run(None, feeds) for feeds in drawn.feeds]


def _alone(path: Path, drawn: Drawn) -> Outputs:
    session = onnxruntime.InferenceSession(path, quiet())
    return [session.run(None, feeds) for feeds in drawn.feeds]


def compare(ranks: list[Outputs], expected: Outputs) -> str:
    """Say where a rank's output differs, "" if none does."""
    for rank, runs in enumerate(ranks):
        for outputs, wanted in zip(runs, expected, strict=True):
            for number, (got, want) in enumerate(zip(outputs, wanted, strict=True)):
                if text := _differs(got, want):
                    return f"output {number} of rank {rank} {text}"
    return ""


def _differs(got: Array, want: Array) -> str:
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        return f"is {got.dtype} {got.shape}, not {want.dtype} {want.shape}"
    if want.dtype.kind != "f":
        return "" if np.array_equal(got, want) else f"differs in {np.sum(got != want)} places"
    if np.allclose(got, want, rtol=RTOL, atol=ATOL * np.abs(want).max(initial=0)):
        return ""
    return f"differs by {np.abs(got - want).max():.3g}, of {np.abs(want).max():.3g}"
