"""The order in which the nodes of a graph can run."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from onnx import NodeProto

from .effects import sequence
from .errors import ModelError
from .nodes import label, references


def stable_order(nodes: Sequence[NodeProto]) -> list[int]:
    """Return indices so that each node follows what it reads, else in the order of the file.

    Effects come in their own order. Raises ModelError for a cycle, naming the nodes that are on it
    or behind it, and for an order that cannot be kept.
    """
    producer = {name: k for k, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in references(node) if name in producer} for node in nodes]
    effects = sequence(nodes, needs)
    for before, after in itertools.pairwise(effects):
        needs[after].add(before)
    readers: list[list[int]] = [[] for _ in nodes]
    for k, makers in enumerate(needs):
        for maker in makers:
            readers[maker].append(k)
    waiting = [len(makers) for makers in needs]
    ready = [k for k, count in enumerate(waiting) if count == 0]
    order = list[int]()
    while ready:
        k = heapq.heappop(ready)
        order.append(k)
        for reader in readers[k]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = [label(nodes[k]) for k, count in enumerate(waiting) if count > 0]
        raise ModelError(f"the graph has a cycle among {', '.join(stuck[:5])}")
    return order
