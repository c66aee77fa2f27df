"""Mistakes made on purpose: one rank's graph is changed in one place.

What a mistake can be is a table of functions. Each takes what it needs from a generator of random
numbers, changes the graph of one rank, and says what it did, or nothing where it has no place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper
from seed_programs import Seed

from rankwise.models.nodes import subgraphs
from rankwise.models.opset import COMMON, OPS, is_ours


class Place(NamedTuple):
    """A node within a graph or a body."""

    graph: GraphProto
    index: int

    @property
    def node(self) -> NodeProto:
        return self.graph.node[self.index]

    def insert(self, node: NodeProto) -> None:
        """Put a node before this one."""
        nodes = list(self.graph.node)
        nodes.insert(self.index, node)
        self._set(nodes)

    def _set(self, nodes: list[NodeProto]) -> None:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)

    def replace(self, *nodes: NodeProto) -> None:
        """Put nodes in the place of this one."""
        listed = list(self.graph.node)
        self._set([*listed[: self.index], *nodes, *listed[self.index + 1 :]])

    def swap(self, other: int) -> None:
        """Exchange this node with another one of the graph."""
        listed = list(self.graph.node)
        listed[self.index], listed[other] = listed[other], listed[self.index]
        self._set(listed)


class Mutation(NamedTuple):
    """What a change has to choose from."""

    rng: np.random.Generator
    place: Place
    ranks: int
    rank: int

    @property
    def node(self) -> NodeProto:
        return self.place.node


def places(graph: GraphProto) -> Iterator[Place]:
    """Yield the nodes that communicate, and those with bodies, in bodies too."""
    for index, node in enumerate(graph.node):
        if (is_ours(node) and OPS[node.op_type].is_effect) or any(subgraphs(node)):
            yield Place(graph, index)
        for body in subgraphs(node):
            yield from places(body)


def put(node: NodeProto, **attributes: Any) -> None:
    """Set attributes; None takes one away."""
    kept = [entry for entry in node.attribute if entry.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    for name, value in attributes.items():
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))


def has(node: NodeProto, *names: str) -> bool:
    return is_ours(node) and all(name in OPS[node.op_type].attributes for name in names)


def takes_operand(node: NodeProto) -> bool:
    return is_ours(node) and OPS[node.op_type].operand != "none" and len(node.input) > 0


def drop(m: Mutation) -> str | None:
    node = m.node
    if not is_ours(node):
        return None
    if OPS[node.op_type].gives == "Y":
        read = node.input[0] if takes_operand(node) else "x"
        m.place.replace(helper.make_node("Identity", [read], [node.output[0]]))
    else:
        # What waited for its token waits for nothing.
        true = helper.make_tensor("", 9, [], [1])
        done = helper.make_node("Constant", [], [node.output[0]], value=true)
        m.place.replace(done)
        for other in m.place.graph.node:
            kept = [name for name in other.input if name not in done.output]
            if is_ours(other):
                del other.input[:]
                other.input.extend(kept)
    return "dropped"


def double(m: Mutation) -> str | None:
    if not is_ours(m.node):
        return None
    again = NodeProto.FromString(m.node.SerializeToString())
    again.output[:] = [f"{name}_again" for name in again.output]
    m.place.insert(again)
    return "twice"


def swap(m: Mutation) -> str | None:
    others = [p.index for p in places(m.place.graph) if p.graph is m.place.graph]
    others.remove(m.place.index)
    if not others:
        return None
    other = int(m.rng.choice(others))
    m.place.swap(other)
    return f"exchanged with node {other}"


def widen(m: Mutation) -> str | None:
    """Change the shape of the operand to one that does not fit.

    Where an operator takes operands of different lengths, another length is no mistake; and what
    root alone gives may be of any shape.
    """
    if m.node.op_type in ("Broadcast", "Scatter"):
        return None
    if m.node.op_type in ("AllGather", "AllToAll", "Gather"):
        return operand(m, "Unsqueeze", 1)
    return operand(m, "Concat", 2, axis=0)


def cast(m: Mutation) -> str | None:
    return operand(m, "Cast", 1, to=int(m.rng.choice([11, 10, 6])))


def operand(m: Mutation, op_type: str, times: int, **attributes: Any) -> str | None:
    """Put a node before the operand."""
    if not takes_operand(m.node):
        return None
    made = f"{m.node.input[0]}_{op_type}"
    read = [m.node.input[0]] * times + (["matrix"] if op_type == "Unsqueeze" else [])
    before = helper.make_node(op_type, read, [made], **attributes)
    m.node.input[0] = made
    m.place.insert(before)
    return f"{op_type} before it"


def expect_dtype(m: Mutation) -> str | None:
    if not has(m.node, "dtype"):
        return None
    kind = int(m.rng.choice([11, 7, 10]))
    put(m.node, dtype=kind)
    return f"dtype={kind}"


def expect_shape(m: Mutation) -> str | None:
    if not has(m.node, "shape"):
        return None
    shape = [int(m.rng.integers(1, 7)), 2]
    put(m.node, shape=shape)
    return f"shape={shape}"


def tag(m: Mutation) -> str | None:
    if not has(m.node, "tag"):
        return None
    number = int(m.rng.integers(0, 9))
    put(m.node, tag=number)
    return f"tag={number}"


def peer(m: Mutation) -> str | None:
    if not is_ours(m.node) or OPS[m.node.op_type].peer is None:
        return None
    place = 1 if takes_operand(m.node) else 0
    m.node.input[place] = f"c{m.rng.integers(0, 4)}"
    return f"peer {m.node.input[place]}"


def group(m: Mutation) -> str | None:
    if not is_ours(m.node):
        return None
    others = [rank for rank in range(m.ranks) if rank != m.rank]
    chosen = m.rng.choice(others, int(m.rng.integers(0, len(others))), replace=False)
    ranks = sorted([m.rank, *map(int, chosen)])
    put(m.node, groups=ranks, group_size=len(ranks), axis_name=None)
    return f"groups={ranks}"


def root(m: Mutation) -> str | None:
    if not has(m.node, "root"):
        return None
    number = int(m.rng.integers(0, m.ranks))
    put(m.node, root=number)
    return f"root={number}"


def reduce_by(m: Mutation) -> str | None:
    if not has(m.node, "op"):
        return None
    name = str(m.rng.choice(["sum", "max", "min", "prod"]))
    put(m.node, op=name)
    return f"op={name}"


def along(m: Mutation) -> str | None:
    if not has(m.node, "dim"):
        return None
    put(m.node, dim=1)
    return "dim=1"


def operator(m: Mutation) -> str | None:
    if not takes_operand(m.node) or m.node.op_type == "Send":
        return None
    name = str(m.rng.choice(["AllReduce", "AllGather", "ReduceScatter", "Reduce", "Broadcast"]))
    declared = OPS[name].attributes.keys() | COMMON
    put(m.node, **{e.name: None for e in m.node.attribute if e.name not in declared})
    m.node.op_type = name
    return f"made {name}"


def condition(m: Mutation) -> str | None:
    """Take the other branch, or go around once more."""
    if m.node.op_type == "If":
        before = helper.make_node("Not", [m.node.input[0]], ["otherwise"])
    elif m.node.op_type == "Loop":
        before = helper.make_node("Add", [m.node.input[0], "c1"], ["otherwise"])
    else:
        return None
    m.node.input[0] = "otherwise"
    m.place.insert(before)
    return f"{before.op_type} before it"


MUTATIONS: tuple[Callable[[Mutation], str | None], ...] = (
    drop, double, swap, widen, cast, expect_dtype, expect_shape, tag, peer, group, root, reduce_by,
    along, operator, condition,
)  # fmt: skip


class Mutant(NamedTuple):
    """A program with a mistake."""

    models: list[ModelProto]
    text: str


def mutant(seed: Seed, rng: np.random.Generator) -> Mutant:
    """Change one rank of a program in one place."""
    ranks = len(seed.models)
    while True:
        rank = int(rng.integers(ranks))
        changed = ModelProto.FromString(seed.models[rank].SerializeToString())
        found = list(places(changed.graph))
        place = found[int(rng.integers(len(found)))]
        name = f"{place.node.op_type} {place.node.output[0]!r}"
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        text = mutation(Mutation(rng, place, ranks, rank))
        if text is not None and changed != seed.models[rank]:
            models = [changed if k == rank else model for k, model in enumerate(seed.models)]
            return Mutant(models, f"rank {rank}, {name}: {text}")
