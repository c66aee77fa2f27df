"""The order of effects, stated by tokens, by numbers, or by the file alone, and each from another.

Whatever states it before, the order is that in which a plan would run the effects, and the nodes
are written in an order in which they can run.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from onnx import GraphProto, ModelProto, NodeProto

from .calls import inlined
from .effects import Place, is_effect, set_place
from .errors import ModelError
from .nodes import free, label, references, replace_nodes, subgraphs, value_names
from .opset import DOMAIN, OPS, is_ours
from .ordering import stable_order
from .plan import check_whole, sealed

Statement = Literal["tokens", "annotation", "plain"]


def ordered(model: ModelProto, how: Statement) -> ModelProto:
    """Return a sealed model that states the order of its effects in this way alone.

    Functions that communicate are inlined. Raises ModelError for an order that cannot be kept, and
    for tokens where a body communicates: If, Loop, Scan and ParallelFor have none.
    """
    check_whole(model)  # what is not would be sealed anew
    made = ModelProto()
    made.CopyFrom(model)
    if any(is_effect(node) for function in model.functions for node in function.node):
        made = inlined(made)
    _state(made.graph, how, value_names(made.graph))
    return sealed(made)


def _state(graph: GraphProto, how: Statement, taken: set[str]) -> None:
    """Write the effects of a graph and of its bodies; new values get names beside `taken`."""
    nodes = [graph.node[k] for k in stable_order(graph.node)]
    for node in nodes:
        for body in subgraphs(node):
            if any(map(is_effect, body.node)):
                _state(body, how, taken)
    effects = [node for node in nodes if is_effect(node)]
    for node in effects:
        set_place(node, None)
    taken -= _stripped(nodes, effects, {value.name for value in graph.output})
    if how == "annotation":
        for place, node in enumerate(effects, 1):
            set_place(node, Place(place, len(effects)))
    if how == "tokens":
        _chain(effects, taken)
    replace_nodes(graph, nodes)


def operands(node: NodeProto) -> int:
    """Return how many inputs of one of our nodes come before the tokens."""
    op = OPS[node.op_type]
    return (op.operand != "none") + (op.peer is not None)


def token_of(node: NodeProto) -> str:
    """Return the token that one of our nodes gives, "" where it gives none."""
    place = OPS[node.op_type].gives == "Y"
    return node.output[place] if len(node.output) > place else ""


def _stripped(nodes: list[NodeProto], effects: list[NodeProto], outputs: set[str]) -> set[str]:
    """Take away the tokens that only effects read; return their names."""
    simple = [node for node in effects if node.op_type in OPS and is_ours(node)]
    for node in simple:
        del node.input[operands(node) :]
        while node.input and not node.input[-1]:
            del node.input[-1]
    read = {name for node in nodes for name in references(node)} | outputs
    stripped = set[str]()
    for node in simple:
        token = token_of(node)
        if token and token not in read and node.op_type != "Barrier":
            node.output.remove(token)
            stripped.add(token)
    return stripped


def _chain(effects: list[NodeProto], taken: set[str]) -> None:
    """Let each effect wait for the one before it."""
    for node in effects:
        if node.op_type not in OPS or node.domain != DOMAIN:
            raise ModelError(
                f"{label(node)} communicates in its body, and has no tokens; "
                "state the order with --annotation"
            )
    for before, after in pairwise(effects):
        token = token_of(before) or free(f"{_stem(before)}/token", taken)
        place = int(OPS[before.op_type].gives == "Y")
        if len(before.output) <= place:
            before.output.extend([""] * (place - len(before.output)) + [token])
        before.output[place] = token
        after.input.extend([""] * (operands(after) - len(after.input)))
        after.input.append(token)


def _stem(node: NodeProto) -> str:
    return node.name or next(filter(None, node.output), node.op_type)
