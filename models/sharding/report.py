"""What a person reads of a model before it is sharded, and of a choice before it is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import NothingToShard
from ..graph import load
from ..mesh import Mesh
from ..table import aligned
from .analysis import BATCH, LENGTH, Analysis, analyse
from .candidates import Candidate, rank_bytes
from .site import Site
from .write import Sharding, plan_analysed

SIZES = (2, 3, 4, 8)
"""Numbers of ranks that a description shows."""


def describe(source: str | Path | bytes) -> str:
    """Describe a model: its weights, its work, and what of it can be sharded.

    Raises ModelError.
    """
    graph = load(source)
    analysis = analyse(graph)
    parameters = sum(weight.count for weight in graph.weights.values())
    operators = Counter(site.node.op_type for site in analysis.sites)
    lines = [
        f"parameters   {parameters:,} in {graph.weight_bytes:,} bytes",
        f"operations   {flops(analysis):,.0f} a run (2 per multiply-add in products and "
        f"convolutions; batch {BATCH}, other open dims {LENGTH})",
        "inputs       " + ", ".join(value.name for value in graph.inputs),
        "outputs      " + ", ".join(value.name for value in graph.outputs),
        "operators    " + ", ".join(f"{n} {op}" for op, n in operators.most_common()),
        *_obstacles(analysis),
        "",
        aligned(list(_meshes(analysis))),
    ]
    return "\n".join(lines)


def _obstacles(analysis: Analysis) -> Iterable[str]:
    found = Counter(
        f"{site.node.op_type}: {site.obstacle}" for site in analysis.sites if site.obstacle
    )
    for text, count in found.most_common():
        yield f"whole        {count} {text}"


def _meshes(analysis: Analysis) -> Iterable[Sequence[object]]:
    yield "mesh", "bytes on the heaviest rank", "of all", "bytes sent by a rank", "cut"
    for size in SIZES:
        try:
            sharding = plan_analysed(analysis, Mesh(tp=size))
        except NothingToShard:
            yield f"tp={size}", analysis.graph.weight_bytes, "100.0%", 0, "nothing"
            continue
        choice = sharding.choice
        heaviest = rank_bytes(sharding.analysis, choice.layout, 0)
        sent = sharding.part(0).sent
        cut = ", ".join(f"{n} x {name}" for name, n in _cuts(choice.chosen).items())
        yield f"tp={size}", round(heaviest), f"{choice.heaviest:.1%}", round(sent), cut


def _cuts(chosen: Iterable[Candidate]) -> Counter[str]:
    """Count the chosen atoms by size."""
    return Counter(f"{candidate.atom!r}" for candidate in chosen)


def preview(sharding: Sharding) -> str:
    """Describe a choice: each rank's bytes, the collectives, and every axis that is cut."""
    choice, graph = sharding.choice, sharding.graph
    rows: list[Sequence[object]] = [("rank", "weight bytes", "of all")]
    for part in sharding.parts:
        share = part.weight_bytes / (graph.weight_bytes or 1)
        rows.append((part.rank, part.weight_bytes, f"{share:.1%}"))
    counts = ", ".join(f"{n} {op}" for op, n in sharding.parts[0].collectives.items())
    sent = sharding.parts[0].sent
    lines = [
        aligned(rows),
        "",
        f"a run sends {sent:,.0f} bytes per rank (batch {BATCH}, other open dims {LENGTH}): "
        + (counts or "no collectives"),
    ]
    for candidate in choice.chosen:
        names = ", ".join(candidate.weights[:6]) + (", ..." if len(candidate.weights) > 6 else "")
        lines.append(f"an axis of {candidate.atom!r} is cut in {names}")
    return "\n".join(lines)


def flops(analysis: Analysis) -> float:
    """Return the operations of a run at the usual sizes, those of products and convolutions."""
    return float(sum(map(_site_flops, analysis.sites, [analysis] * len(analysis.sites))))


def _site_flops(site: Site, analysis: Analysis) -> int:
    shapes = [analysis.usual.get(t.name) if t is not None else None for t in site.inputs]
    out = analysis.usual.get(site.node.output[0])
    if out is None or len(shapes) < 2 or shapes[0] is None or shapes[1] is None:
        return 0
    if site.node.op_type == "MatMul":
        return 2 * math.prod(out) * shapes[0][-1]
    if site.node.op_type == "Gemm":
        return 2 * math.prod(out) * shapes[0][0 if site.attribute("transA", 0) else 1]
    if site.node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(shapes[1][1:])
    return 0
