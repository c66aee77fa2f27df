"""The factor analysis: which dims of a graph are one and the same.

Every dim of every tensor gets an axis. Each node's rule ties the axes of its inputs to those of
its outputs. What is left are atoms, each of them in many tensors: the heads of a layer lie in its
queries, keys and values, in the weights that make them and in the one that takes them in again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from onnx import GraphProto, NodeProto, helper

from ..bodies import bodies, every
from ..body_shapes import OPEN, steps
from ..graph import Graph
from ..nodes import attribute, references
from ..shapes import Shapes, infer, symbols
from ..states import pairs
from .axes import Axis, Conflict, Size, atoms, find, leaves
from .decompose import decomposed
from .rules import find_rule
from .site import Body, Site, Tensor

log = logging.getLogger(__name__)

LARGE = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293)
"""Sizes given to symbolic dims in the first setting. Primes, so that a product shows its factors;
as long as a text or as wide as an image."""

SMALL = (38, 46, 58, 62, 74, 82, 86, 94, 106, 118, 122, 134, 142, 146, 158, 166)
"""Sizes in the second setting: short and even, so that what is cut at 128 tokens, or depends on
s % 2, is not taken for fixed. Where a graph does not run on so little, as an image network may
not, the second setting is LARGE in reverse order."""

UNKNOWN = (307, 178, 199)
"""Sizes, in either setting and in the reverse of LARGE, of what depends on how control flows."""

BATCH, LENGTH = 1, 256
"""Sizes at which traffic is counted: one sentence of ordinary length. A symbolic dim is taken for
a batch where it comes first in an input, unless a recurrent layer tells otherwise."""

RECURRENT = {"GRU", "LSTM", "RNN"}


NONE: Mapping[str, str] = MappingProxyType({})


class Measured(NamedTuple):
    """All shapes at two settings of the symbolic dims, and at the usual sizes."""

    first: Shapes
    second: Shapes
    usual: Shapes


@dataclass(frozen=True)
class Analysis:
    """A graph with the axes of its tensors."""

    graph: Graph
    tensors: dict[str, Tensor]
    outermost: tuple[Site, ...]
    """those of the graph itself, in its order"""
    measured: Measured
    nested: Mapping[Axis, Axis] = field(default_factory=dict)
    """atoms that are to be cut within the elements of another: queries within their group"""

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All sites, those in bodies before the one that has the body."""
        return tuple(inner for site in self.outermost for inner in site.inside)

    @cached_property
    def _times(self) -> dict[str, float]:
        made = {t.name: site.times for site in self.sites for t in site.outputs if t}
        for site in self.sites:
            made |= {t.name: body.times for body in site.bodies for t in body.inputs}
        return made

    def times(self, tensor: Tensor) -> int:
        """Return how often a tensor is made in a run of the usual size."""
        return max(1, round(self._times.get(tensor.name, 1.0)))

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
    first, second, _ = measured
    names = set(_names(graph))
    tensors = {name: _tensor(name, first, second, name in graph.weights) for name in names}
    tying = _Tying(graph.opsets.get("", 1), tensors, measured, obstacles)
    return Analysis(graph, tensors, tuple(tying.sites(graph.nodes, 1.0, None)), measured)


def _names(graph: Graph) -> Iterator[str]:
    """Yield the names of all tensors, those in bodies among them."""
    yield from (value.name for value in (*graph.inputs, *graph.outputs))
    for node in every(graph.nodes):
        yield from (name for name in (*references(node), *node.output) if name)
        for body in bodies(node):
            yield from (value.name for value in (*body.input, *body.output))


class _Tying(NamedTuple):
    """What all sites of a graph are made of."""

    opset: int
    tensors: Mapping[str, Tensor]
    measured: Measured
    obstacles: Mapping[str, str]

    def sites(
        self, nodes: Iterable[NodeProto], times: float, obstacle: str | None
    ) -> Iterator[Site]:
        """Yield the sites of nodes that run so often, and tie their axes."""
        for node in nodes:
            reason = obstacle or self.obstacles.get(node.output[0])
            each = times * steps(node, self.measured.usual)
            inner = tuple(self.body(body, each, reason) for body in bodies(node))
            read = [*map(self.tensor, node.input)]
            made = [*map(self.tensor, node.output)]
            if inner:
                read += [tensor for body in inner for tensor in body.outputs]
                made += [tensor for body in inner for tensor in body.inputs]
            else:
                read += [self.tensors[name] for name in references(node) if name not in node.input]
            site = Site(node, self.opset, read, made, obstacle=reason, bodies=inner, times=times)
            if reason is None:
                _apply_rule(site)
            yield site

    def body(self, body: GraphProto, times: float, obstacle: str | None) -> Body:
        return Body(
            tuple(self.tensors[value.name] for value in body.input),
            tuple(self.tensors[value.name] for value in body.output),
            tuple(self.sites(body.node, times, obstacle)),
            times,
        )

    def tensor(self, name: str) -> Tensor | None:
        return self.tensors[name] if name else None


def measure(graph: Graph) -> Measured:
    """Return all shapes at two settings of the symbolic dims, and at the usual sizes."""
    names = symbols(graph)
    large, small, reverse = (
        {name: row[k % len(row)] for k, name in enumerate(names)} | {OPEN: unknown}
        for row, unknown in zip((LARGE, SMALL, LARGE[::-1]), UNKNOWN, strict=True)
    )
    first, second = infer(graph, large), infer(graph, small)
    if not _runs(second, first):
        second = infer(graph, reverse)
    return Measured(first, second, infer(graph, _usual(graph, names, first)))


def first_sizes(graph: Graph) -> dict[str, int]:
    """Return the sizes of the symbolic dims in the first setting."""
    sizes = {name: LARGE[k % len(LARGE)] for k, name in enumerate(symbols(graph))}
    return sizes | {OPEN: UNKNOWN[0]}


def _runs(small: Shapes, large: Shapes) -> bool:
    """Say whether every tensor that has elements in the large setting has some in the small."""
    return all(
        name in small.shapes and (min(small.shapes[name], default=1) > 0 or 0 in shape)
        for name, shape in large.shapes.items()
    )


def _usual(graph: Graph, names: Sequence[str], first: Shapes) -> Mapping[str, int]:
    batches = {
        dim.dim_param for value in graph.inputs for dim in value.type.tensor_type.shape.dim[:1]
    }
    named = {size: name for name, size in first_sizes(graph).items()}
    for node in every(graph.nodes):
        shape = first.shapes.get(node.input[0], ()) if node.op_type in RECURRENT else ()
        if len(shape) == 3:
            steps, batch = (named.get(size, "") for size in shape[:2])
            if attribute(node, "layout", 0):
                steps, batch = batch, steps
            batches = (batches | {batch}) - {steps}
    return {name: BATCH if name in batches else LENGTH for name in (*names, OPEN)}


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
    elif not site.bodies and any(t is not None and not t.has_shape for t in tensors):
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
