"""What a node says of itself: its attributes, its bodies, the names that it reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper

RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
"""Operators of ai.onnx that draw numbers; Dropout is another where it is trained."""


def copied(node: NodeProto) -> NodeProto:
    """Return a copy, to be changed."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def replace_nodes(holder: GraphProto | FunctionProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph or a function hold these nodes, which may be some of its own."""
    copies = [copied(node) for node in nodes]
    del holder.node[:]
    holder.node.extend(copies)


def rewrite(
    holder: GraphProto | FunctionProto, change: Callable[[NodeProto], Iterable[NodeProto]]
) -> None:
    """Put what `change` gives in place of each node of a graph or a function, in bodies first."""
    for node in holder.node:
        for body in subgraphs(node):
            rewrite(body, change)
    replace_nodes(holder, [new for node in holder.node for new in change(node)])


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """Return the value of an attribute; bytes come as str."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the bodies that a control flow node holds."""
    for entry in node.attribute:
        if entry.type == AttributeProto.GRAPH:
            yield entry.g
        elif entry.type == AttributeProto.GRAPHS:
            yield from entry.graphs


def with_inner(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, each followed by those in its bodies."""
    for node in nodes:
        yield node
        for body in subgraphs(node):
            yield from with_inner(body.node)


def every_node(model: ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of a model, those in bodies and functions among them."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from with_inner(nodes)


def draws(node: NodeProto) -> bool:
    """Say whether a node, or one in its bodies, may draw other numbers on every rank.

    With a seed all ranks draw the same.
    """
    is_random = node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)
    if is_random and node.domain in ("", "ai.onnx") and attribute(node, "seed") is None:
        return True
    if not node.attribute:  # most have none, and no bodies
        return False
    return any(draws(inner) for body in subgraphs(node) for inner in body.node)


def references(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its bodies capture among them."""
    yield from filter(None, node.input)
    if node.attribute:  # most have none, and no bodies
        for body in subgraphs(node):
            yield from captures(body)


def captures(body: GraphProto) -> list[str]:
    """Return the names that a body reads and does not make, in its order."""
    read = [name for node in body.node for name in references(node)]
    read += [value.name for value in body.output]
    own = _bound(body)
    return [name for name in dict.fromkeys(read) if name not in own]


def _bound(body: GraphProto) -> set[str]:
    """Return the names of a body's inputs and weights, and of what its nodes make."""
    own = {value.name for value in (*body.input, *body.initializer)}
    own |= {tensor.values.name for tensor in body.sparse_initializer}
    return own | {name for node in body.node for name in node.output}


def value_names(graph: GraphProto) -> set[str]:
    """Return the names of all values of a graph, those in its bodies among them."""
    names = _bound(graph) | {name for node in graph.node for name in node.input}
    for node in graph.node:
        names.update(*map(value_names, subgraphs(node)))
    return names


def free(name: str, taken: set[str]) -> str:
    """Return the name, or with a number behind it where it is taken; it is taken from now on."""
    numbered = (f"{name}/{count}" for count in itertools.count(2))
    found = next(n for n in itertools.chain([name], numbered) if n not in taken)
    taken.add(found)
    return found


def label(node: NodeProto) -> str:
    """Name a node for a message: its name, or its operator and first output."""
    made = next((name for name in node.output if name), "")
    return f"{node.op_type} {node.name or made!r}"


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """Return a node that reads and makes values under other names, in its bodies too."""
    if names.keys().isdisjoint((*references(node), *node.output)):
        return node
    changed = copied(node)
    _rename(changed, names)
    return changed


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for body in subgraphs(node):
        inside = {name: names[name] for name in captures(body) if name in names}
        # A name of the body's own must not hide what it captures under its new name.
        taken = _bound(body).union(captures(body), inside.values())
        hiding = _bound(body).intersection(inside.values())
        inside |= {name: free(name, taken) for name in sorted(hiding)}
        for inner in body.node:
            _rename(inner, inside)
        weights = (*body.initializer, *(tensor.values for tensor in body.sparse_initializer))
        for value in (*body.input, *body.output, *body.value_info, *weights):
            value.name = inside.get(value.name, value.name)
