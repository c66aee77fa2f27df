"""Bodies of If, Loop and Scan as parts of one graph: each name once, and weights in one place.

So a body reads what lies outside under the names that it has there, and a weight that several
bodies hold is one like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from .nodes import attribute, copied, free, replace_nodes, subgraphs
from .weights import Weight

FORMS = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
"""Operators whose bodies are entered, and the attributes that hold them."""


def bodies(node: NodeProto) -> list[GraphProto]:
    """Return the bodies of a node that are entered; none where it has none, or not such ones.

    Before opset 9 a Scan takes the lengths of sequences first, and goes through a batch of them.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in FORMS:
        return []
    found = [attribute(node, name) for name in FORMS[node.op_type]]
    graphs = [graph for graph in found if isinstance(graph, GraphProto)]
    if node.op_type == "Scan" and len(graphs[0].input) != len(node.input):
        return []
    return graphs


def every(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of their bodies, which come before the node that holds them."""
    for node in nodes:
        for body in bodies(node):
            yield from every(body.node)
        yield node


def with_bodies(node: NodeProto, change: Callable[[GraphProto], list[NodeProto]]) -> NodeProto:
    """Return a node with other nodes in its bodies."""
    if not bodies(node):
        return node
    changed = copied(node)
    for body in bodies(changed):
        replace_nodes(body, change(body))
    return changed


def unfolded(
    nodes: Iterable[NodeProto],
    outside: Iterable[str],
    weights: dict[str, Weight],
    folder: Path | None,
) -> list[NodeProto]:
    """Return nodes whose bodies give no name that is given elsewhere.

    `outside` are names that the graph has beside those of its nodes. Initializers of bodies go to
    the weights; `folder` holds the external ones.
    """
    nodes = list(nodes)
    taken = {*outside, *weights, *(name for node in nodes for name in node.output)}
    unfolding = _Unfolding(taken, weights, folder)
    return [unfolding.node(node, {}) if any(subgraphs(node)) else node for node in nodes]


@dataclass
class _Unfolding:
    """The names that are taken so far, and the weights."""

    taken: set[str]
    weights: dict[str, Weight]
    folder: Path | None

    def node(self, node: NodeProto, names: Mapping[str, str]) -> NodeProto:
        """Return a node with other names; they are those of the scopes around it."""
        changed = copied(node)
        changed.input[:] = [names.get(name, name) for name in node.input]
        if bodies(node) and node.op_type == "Loop":
            changed.input.extend([""] * (2 - len(node.input)))
        changed.output[:] = [names.get(name, name) for name in node.output]
        for entry in changed.attribute:
            if entry.type == AttributeProto.GRAPH:
                self.body(entry.g, names)
        return changed

    def body(self, body: GraphProto, outer: Mapping[str, str]) -> None:
        inputs = [value.name for value in body.input]
        made = [name for node in body.node for name in node.output if name]
        held = [tensor.name for tensor in body.initializer]
        names = {**outer, **{name: free(name, self.taken) for name in (*inputs, *made, *held)}}
        for tensor in body.initializer:
            weight = TensorProto()
            weight.CopyFrom(tensor)
            weight.name = names[tensor.name]
            self.weights[weight.name] = Weight.of(weight, self.folder)
        nodes = [self.node(node, names) for node in body.node]
        for value in body.input:
            value.name = names[value.name]
        for value in body.output:
            inner = names.get(value.name, value.name)
            if value.name in inputs or value.name in made:
                value.name = inner
            else:  # what lies outside of a body is none of its outputs
                value.name = free(f"{inner}/given", self.taken)
                nodes.append(helper.make_node("Identity", [inner], [value.name], value.name))
        for field in ("node", "initializer", "value_info"):
            body.ClearField(field)
        body.node.extend(nodes)
