"""The factor analysis: which dims of a graph are one and the same.

Every dim of every tensor gets an axis. Each node's rule ties the axes of its inputs to those of
its outputs. What is left are atoms, each of them in many tensors: the heads of a layer lie in its
queries, keys and values, in the weights that make them and in the one that takes them in again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from onnx import helper

from ..graph import Graph
from ..nodes import references
from ..shapes import Shapes, infer, symbols
from ..states import pairs
from .axes import Axis, Conflict, Size, atoms, find, leaves
from .decompose import decomposed
from .rules import find_rule
from .site import Site, Tensor

log = logging.getLogger(__name__)

LARGE = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293)
"""Sizes given to symbolic dims in the first setting. Primes, so that a product shows its factors;
as long as a text or as wide as an image."""

SMALL = (38, 46, 58, 62, 74, 82, 86, 94, 106, 118, 122, 134, 142, 146, 158, 166)
"""Sizes in the second setting: short and even, so that what is cut at 128 tokens, or depends on
s % 2, is not taken for fixed. Where a graph does not run on so little, as an image network may
not, the second setting is LARGE in reverse order."""

BATCH, LENGTH = 1, 256
"""Sizes at which traffic is counted: one sentence of ordinary length. A symbolic dim is taken for
a batch where it comes first in an input."""


NONE: Mapping[str, str] = MappingProxyType({})


class Measured(NamedTuple):
    """All shapes at two settings of the symbolic dims, and at the usual sizes."""

    first: Shapes
    second: Shapes
    usual: Shapes
    sizes: Mapping[str, int]
    """of the symbolic dims in the first setting"""


@dataclass(frozen=True)
class Analysis:
    """A graph with the axes of its tensors."""

    graph: Graph
    tensors: dict[str, Tensor]
    sites: tuple[Site, ...]
    measured: Measured

    @property
    def usual(self) -> dict[str, tuple[int, ...]]:
        """Shapes at the sizes at which traffic is counted."""
        return self.measured.usual.shapes

    @cached_property
    def readers(self) -> dict[str, list[Site]]:
        """Sites that read a tensor, by its name."""
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            for tensor in site.inputs:
                if tensor is not None:
                    found.setdefault(tensor.name, []).append(site)
        return found

    @cached_property
    def states(self) -> dict[str, str]:
        """Inputs that outputs become in the next run, by the name of the output."""
        return pairs(self.graph)

    @property
    def steps(self) -> int:
        """Steps of one token that follow a prompt: as many as it has, where there are states."""
        return LENGTH if self.states else 0


def analyse(graph: Graph) -> Analysis:
    """Name the axes of all tensors of a graph, its functions written out."""
    graph = decomposed(graph)
    return tie(graph, measure(graph))


def tie(graph: Graph, measured: Measured, obstacles: Mapping[str, str] = NONE) -> Analysis:
    """Name the axes, given the shapes; some nodes, by their first output, are to tie nothing."""
    first, second = measured.first, measured.second
    names = {name for node in graph.nodes for name in (*references(node), *node.output) if name}
    names |= {value.name for value in (*graph.inputs, *graph.outputs)}
    tensors = {name: _tensor(name, first, second, name in graph.weights) for name in names}
    opset = graph.opsets.get("", 1)
    sites = []
    for node in graph.nodes:
        inputs: list[Tensor | None] = [tensors[n] if n else None for n in node.input]
        captured = [tensors[name] for name in references(node) if name not in node.input]
        outputs: list[Tensor | None] = [tensors[n] if n else None for n in node.output]
        site = Site(node, opset, [*inputs, *captured], outputs)
        site.obstacle = obstacles.get(node.output[0])
        sites.append(site)
        if site.obstacle is None:
            _apply_rule(site)
    return Analysis(graph, tensors, tuple(sites), measured)


def measure(graph: Graph) -> Measured:
    """Return all shapes at two settings of the symbolic dims, and at the usual sizes."""
    names = symbols(graph)
    large, small, reverse = (
        {name: row[k % len(row)] for k, name in enumerate(names)}
        for row in (LARGE, SMALL, LARGE[::-1])
    )
    first, second = infer(graph, large), infer(graph, small)
    if not _runs(second, first):
        second = infer(graph, reverse)
    return Measured(first, second, infer(graph, _usual(graph, names)), large)


def _runs(small: Shapes, large: Shapes) -> bool:
    """Say whether every tensor that has elements in the large setting has some in the small."""
    return all(
        name in small.shapes and (min(small.shapes[name], default=1) > 0 or 0 in shape)
        for name, shape in large.shapes.items()
    )


def _usual(graph: Graph, names: Sequence[str]) -> Mapping[str, int]:
    batches = {
        dim.dim_param for value in graph.inputs for dim in value.type.tensor_type.shape.dim[:1]
    }
    return {name: BATCH if name in batches else LENGTH for name in names}


def _tensor(name: str, first: Shapes, second: Shapes, is_weight: bool) -> Tensor:
    a, b = first.shapes.get(name), second.shapes.get(name)
    data_type = first.types.get(name, 0)
    if a is None or b is None or len(a) != len(b) or not data_type:
        return Tensor(name, data_type, (), (), None, is_weight, has_shape=False)
    shape = tuple(map(Size, a, b))
    axes = tuple(None if 0 in size or size == (1, 1) else Axis(size) for size in shape)
    values = None
    if name in first.values and name in second.values:
        values = first.values[name], second.values[name]
    return Tensor(name, data_type, shape, axes, values, is_weight)


def _apply_rule(site: Site) -> None:
    """Tie the axes of a node, or note why it cannot be done."""
    rule = find_rule(site.node.domain, site.node.op_type)
    tensors = (*site.inputs, *site.outputs)
    if rule is None:
        site.obstacle = "no rule for this operator"
    elif rule.reason is not None:
        site.obstacle = rule.reason
    elif any(tensor is not None and not tensor.has_shape for tensor in tensors):
        site.obstacle = "its shapes are known only when the model runs"
    else:
        try:
            rule.tie(site)
        except Conflict as conflict:
            site.obstacle = str(conflict)
    if site.obstacle:
        log.debug("%s %r is computed whole: %s", site.node.op_type, site.name, site.obstacle)


def usual_bytes(analysis: Analysis, tensor: Tensor) -> int:
    """Return the bytes of a tensor at the usual sizes."""
    shape = analysis.usual.get(tensor.name, tuple(size.first for size in tensor.shape))
    return math.prod(shape) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def mixed(tensor: Tensor) -> set[Axis]:
    """Return the atoms that lie in a sum of which a part depends on what is fed.

    A rank's share of such a dim is no fixed part of it, and no fixed indices.
    """
    return {
        atom
        for axis in tensor.axes
        if axis is not None
        for leaf in leaves(axis)
        if leaf.kind == "sum" and not leaf.size.is_static
        for atom in atoms(leaf)
    }


def repeated(tensor: Tensor) -> set[Axis]:
    """Return the atoms that a tensor has twice along one index: cutting them leaves a diagonal.

    The parts of a sum lie side by side, so the same atom may stand in several of them.
    """
    return _twice([axis for axis in tensor.axes if axis is not None])


def _twice(factors: Iterable[Axis]) -> set[Axis]:
    found, seen = set[Axis](), set[Axis]()
    for factor in map(find, factors):
        inside = set(atoms(factor))
        found |= inside & seen
        seen |= inside
        if factor.kind == "product":
            found |= _twice(factor.parts)
        for part in factor.parts:
            found |= _twice([part])
    return found
