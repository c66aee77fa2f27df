"""States that stay on their ranks: of which each rank gives the very part that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto

from ..nodes import references
from ..states import State, ancestors
from ..weights import IndexSet
from .analysis import Analysis
from .layout import Layout
from .site import Tensor


def kept(
    analysis: Analysis,
    layout: Layout,
    nodes: Sequence[NodeProto],
    local: Mapping[str, str],
) -> Iterator[State]:
    """Yield the states of a rank's graph that need not be whole, in the order of the outputs.

    `local` names this rank's part of a tensor. An input that anything reads whole is no such
    state.
    """
    if not analysis.states:
        return
    reads = [list(references(node)) for node in nodes]
    producer = {name: k for k, node in enumerate(nodes) for name in node.output}
    readers: dict[str, set[int]] = {fed: set() for fed in analysis.states.values()}
    for k, names in enumerate(reads):
        for name in readers.keys() & set(names):
            readers[name].add(k)
    for output, fed in analysis.states.items():
        state = State(output, fed, local.get(output, ""), local.get(fed, ""))
        tensors = analysis.tensors[output], analysis.tensors[fed]
        if "" in state or not are_alike(*tensors, layout):
            continue
        if readers[fed] <= ancestors(reads, producer, state.local_input):
            yield state


def are_alike(a: Tensor, b: Tensor, layout: Layout) -> bool:
    """Say whether every rank holds the same indices of two tensors."""
    return a.rank == b.rank and all(
        _same(layout.indices(x, rank), layout.indices(y, rank))
        for x, y in zip(a.axes, b.axes, strict=True)
        for rank in range(layout.size)
    )


def _same(a: IndexSet, b: IndexSet) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)
