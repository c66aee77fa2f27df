"""Partial sums that are added before they are reduced.

Where two branches are added, as attention and MLP are where both read the same input, each may end
in a summand per rank. The sum of the summands needs one AllReduce, that of the branches would need
two. So a partial sum stays one on its way through linear operators, if it meets another there; a
whole tensor that is added on the way is added by one rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from onnx import TensorProto

from .analysis import Analysis
from .axes import Axis
from .layout import Layout, is_opaque, partial_op
from .site import Site, Tensor

ADDED = {"Add", "Sub"}
SCALED = {"Mul", "Div"}
PASSED = {"Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that are linear in their first input; in the second too if it is added or scales."""

EXACT = {TensorProto.FLOAT, TensorProto.DOUBLE}
"""Element types of which summands are kept; those of half precision are widened and reduced."""


def carried(analysis: Analysis, layout: Layout) -> frozenset[str]:
    """Return the names of the tensors that stay partial until they meet another one."""
    open_names = set[str]()
    for site in analysis.sites:
        if _sums(site, layout) or takes(site, layout, open_names):
            open_names |= {out.name for out in site.outputs if out and _is_free(analysis, out)}
    kept = set[str]()
    for site in reversed(analysis.sites):
        met = open_names.intersection(site.node.input)
        if takes(site, layout, met):
            made = site.output().name
            if len(met) > 1 or made in kept or made in layout.scattered:
                kept |= met
    return frozenset(kept)


def reduced(analysis: Analysis, layout: Layout) -> Iterator[Tensor]:
    """Yield the sums that the graph, outside of bodies, adds up over the ranks."""
    kept = carried(analysis, layout)
    for site in analysis.outermost:
        if _sums(site, layout) or takes(site, layout, kept):
            yield from (out for out in site.outputs if out and out.name not in kept)


def passed_on(analysis: Analysis, layout: Layout, tensor: Tensor) -> Tensor | None:
    """Return what the only reader of a sum makes of it, if it does so of each summand too."""
    readers = analysis.readers.get(tensor.name, ())
    if not readers or not _is_free(analysis, tensor):
        return None
    site = readers[0]
    is_outermost = any(site is each for each in analysis.outermost)
    is_passed = site.node.op_type in PASSED and takes(site, layout, {tensor.name})
    return site.output() if is_outermost and is_passed else None


def _sums(site: Site, layout: Layout) -> bool:
    return partial_op(site, layout) == "sum" and not is_opaque(site, layout)


def _is_free(analysis: Analysis, tensor: Tensor) -> bool:
    """Say whether one node alone reads a tensor, and so decides what becomes of it."""
    readers = {id(site) for site in analysis.readers.get(tensor.name, ())}
    is_output = any(value.name == tensor.name for value in analysis.graph.outputs)
    return len(readers) == 1 and not is_output and tensor.data_type in EXACT


def takes(site: Site, layout: Layout, partial: Set[str]) -> bool:
    """Say whether a node's output is partial too, if those of its inputs are that are named."""
    given = [name in partial for name in site.node.input]
    op = site.node.op_type if site.node.domain in ("", "ai.onnx") else ""
    if site.obstacle is not None or not any(given) or any(map(layout.holds, _axes(site))):
        return False
    if op in ADDED:
        # What one rank alone adds must not give the sum its shape.
        shapes = [site.tensor(k).shape for k in range(2) if given[k]]
        return all(given) or shapes == [site.output().shape]
    if op in SCALED:
        return sum(given) == 1 and (given[0] or op == "Mul")
    return op in PASSED and given[0]


def _axes(site: Site) -> list[Axis | None]:
    return [axis for t in (*site.inputs, *site.outputs) if t is not None for axis in t.axes]
