"""States that stay on their ranks: of which a rank gives the very part that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto

from ..nodes import references
from ..states import State, ancestors
from .analysis import Analysis
from .layout import Layout
from .site import Tensor


def kept(
    analysis: Analysis,
    layout: Layout,
    rank: int,
    nodes: Sequence[NodeProto],
    local: Mapping[str, str],
) -> Iterator[State]:
    """Yield the states of a rank's graph that need not be whole, in the order of the outputs.

    `local` names this rank's part of a tensor. An input that anything reads whole is no such
    state.
    """
    for output, fed in analysis.states.items():
        state = State(output, fed, local.get(output, ""), local.get(fed, ""))
        tensors = analysis.tensors[output], analysis.tensors[fed]
        if "" in state or not _are_alike(*tensors, layout, rank):
            continue
        readers = {k for k, node in enumerate(nodes) if fed in references(node)}
        if readers <= ancestors(nodes, state.local_input):
            yield state


def _are_alike(a: Tensor, b: Tensor, layout: Layout, rank: int) -> bool:
    """Say whether a rank holds the same indices of two tensors."""
    held = [[layout.indices(axis, rank) for axis in tensor.axes] for tensor in (a, b)]
    return a.rank == b.rank and all(
        x is y or (x is not None and y is not None and np.array_equal(x, y))
        for x, y in zip(*held, strict=True)
    )
