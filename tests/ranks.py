"""Runs sharded graphs on the ranks of one process, each in a session of onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.random import Generator

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.mesh import Mesh
from rankwise.models.sharding.analysis import Analysis
from rankwise.models.sharding.axes import Axis
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.layout import Layout, is_opaque
from rankwise.models.sharding.machine import HERE
from rankwise.models.sharding.partials import reduced
from rankwise.models.sharding.regions import Growth, Region, axes
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, write_part

TIMEOUT_S = 60.0

Feeds = Mapping[str, Any]


def quiet(is_optimised: bool = True) -> onnxruntime.SessionOptions:
    """Return options of one thread, and no messages."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not is_optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def cut_along(analysis: Analysis, atoms: Axis | Iterable[Axis], size: int) -> Sharding:
    """Return the sharding along these atoms alone."""
    kept = frozenset([atoms] if isinstance(atoms, Axis) else atoms)
    return Sharding(analysis, Mesh(tp=size), Choice((), Layout(kept, size), 0.0, ()))


def on_rows(sharding: Sharding, rng: Generator | None = None) -> Sharding:
    """Return the sharding with all that can run on rows between sums, in a random order."""
    analysis, layout = sharding.analysis, sharding.choice.layout
    sums = list(reduced(analysis, layout)) if layout.size > 1 else []
    grown = (Growth(analysis, layout, HERE, axis, sums) for axis in axes(analysis, layout, sums))
    found = [region for each in grown for region in each.parts()]
    taken = list[Region]()
    for k in range(len(found)) if rng is None else rng.permutation(len(found)).tolist():
        if not any(found[k].overlaps(region) for region in taken):
            taken.append(found[k])
            layout = found[k].added_to(layout)
    choice = replace(sharding.choice, layout=layout, regions=tuple(taken))
    return replace(sharding, choice=choice)


def passing(analysis: Analysis, size: int, op_type: str = "") -> list[Axis]:
    """Return the atoms along which a node of an operator, or any, runs on parts."""
    return [
        atom
        for atom, _, sites in shardable(analysis, size)
        if any(
            op_type in ("", site.node.op_type)
            and not is_opaque(site, Layout(frozenset([atom]), size))
            for site in sites
        )
    ]


def operators(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return the domains and operators of a model's nodes."""
    return {(node.domain, node.op_type) for node in model.graph.node}


def on_parts(sharding: Sharding) -> set[tuple[str, str]]:
    """Return the domains and operators of which a node runs on parts."""
    layout = sharding.choice.layout
    return {
        (site.node.domain, site.node.op_type)
        for site in sharding.analysis.sites
        if not layout.sharded.isdisjoint(site.seen) and not is_opaque(site, layout)
    }


def write(sharding: Sharding, folder: Path) -> None:
    """Write the graph of every rank."""
    for part in sharding.parts:
        write_part(sharding, part, folder / f"rank{part.rank}.onnx", lambda done, total: None)


def run(
    sharding: Sharding, feeds: Feeds, folder: Path, is_optimised: bool = True
) -> list[list[Any]]:
    """Return the outputs of every rank."""
    return [made for (made,) in run_each(sharding, [feeds], folder, is_optimised)]


def run_each(
    sharding: Sharding, fed: Sequence[Feeds], folder: Path, is_optimised: bool = True
) -> list[list[list[Any]]]:
    """Return the outputs of every rank, by what is fed one after the other."""
    write(sharding, folder)
    paths = [folder / f"rank{part.rank}.onnx" for part in sharding.parts]
    # A session of several ranks would shard once more what does not communicate.
    groups = [paths] if sharding.parts[0].collectives else [[path] for path in paths]
    return [
        made
        for group in groups
        for made in local.run(len(group), partial(_work, group, fed, is_optimised), TIMEOUT_S)
    ]


def _work(
    paths: Sequence[Path], fed: Sequence[Feeds], is_optimised: bool, comm: Communicator
) -> list[list[Any]]:
    with InferenceSession(paths[comm.rank], quiet(is_optimised), comm=comm) as session:
        return [session.run(None, feeds) for feeds in fed]


def whole(model: onnx.ModelProto, feeds: Feeds, is_optimised: bool = True) -> list[Any]:
    """Return what one onnxruntime session gives."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet(is_optimised))
    return list(session.run(None, feeds))
