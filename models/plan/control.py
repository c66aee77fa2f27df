"""The instructions of nodes with bodies that communicate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import GraphProto, NodeProto, numpy_helper

from ..errors import ModelError
from ..nodes import attribute, label
from ..parallel import PARALLEL_FOR, parallel_attributes
from ..scans import scanned
from .instructions import Branch, Control, ParallelFor, Plan, Repeat, Scan

PlanBody = Callable[[GraphProto], Plan]


def control(node: NodeProto, plan_body: PlanBody) -> Control:
    """Return the instruction of a node, whose bodies `plan_body` plans.

    Raises ModelError for a node that does not fit its bodies, and for one that is neither If,
    Loop, Scan nor ParallelFor.
    """
    makers: dict[str, Callable[[NodeProto, PlanBody], Control]] = {
        "If": _branch, "Loop": _repeat, "Scan": _scan, PARALLEL_FOR: _parallel_for,
    }  # fmt: skip
    if node.op_type not in makers:
        raise ModelError(
            f"{label(node)} communicates inside its body; expected that of If, Loop, Scan or "
            f"{PARALLEL_FOR} only"
        )
    return makers[node.op_type](node, plan_body)


def _branch(node: NodeProto, plan_body: PlanBody) -> Branch:
    branches = [plan_body(_body(node, name)) for name in ("then_branch", "else_branch")]
    for body in branches:
        _expect(node, "outputs of its branches", len(node.output), len(body.outputs))
    captured = dict.fromkeys(name for body in branches for name in body.captured)
    return Branch(
        name_of(node), (*_first(node, 1), *captured), tuple(node.output), branches[0], branches[1]
    )


def _repeat(node: NodeProto, plan_body: PlanBody) -> Repeat:
    body = plan_body(_body(node, "body"))
    carried = len(body.inputs) - 2
    given = [*node.input, "", ""][: max(2, len(node.input))]
    _expect(node, "carried values", carried, len(given) - 2)
    if len(body.outputs) < 1 + carried or len(node.output) > len(body.outputs) - 1:
        _expect(node, "outputs of its body", len(node.output) + 1, len(body.outputs))
    return Repeat(
        name_of(node), (*given, *body.captured), tuple(node.output), body, carried, _stops(body)
    )


def _stops(body: Plan) -> bool:
    """Say whether the condition that a body gives may be another one than it was given."""
    name, given = body.outputs[0], body.inputs[1]
    graph = body.model.graph
    producer = {out: node for node in graph.node for out in node.output}
    while name in producer and producer[name].op_type == "Identity":
        name = producer[name].input[0]
    fixed: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    if name in producer and producer[name].op_type == "Constant":
        fixed[name] = attribute(producer[name], "value")
    constant = fixed.get(name)
    return name != given and (constant is None or not numpy_helper.to_array(constant).all())


def _scan(node: NodeProto, plan_body: PlanBody) -> Scan:
    body = plan_body(_body(node, "body"))
    if len(node.input) == len(body.inputs) + 1:
        raise ModelError(
            f"{label(node)} goes through a batch, as before opset 9; expected a newer one, "
            "since its body communicates"
        )
    _expect(node, "inputs of its body", len(node.input), len(body.inputs))
    _expect(node, "outputs of its body", len(node.output), len(body.outputs))
    return Scan(
        name_of(node), (*node.input, *body.captured), tuple(node.output), body, *scanned(node)
    )


def _parallel_for(node: NodeProto, plan_body: PlanBody) -> ParallelFor:
    values = parallel_attributes(node)
    body = plan_body(values.pop("body"))
    returns, dim = values.pop("returns"), values.pop("dim")
    return ParallelFor(
        name_of(node),
        (*node.input, *body.captured),
        tuple(node.output),
        body,
        returns,
        dim,
        values,
    )


def _body(node: NodeProto, name: str) -> GraphProto:
    body = attribute(node, name)
    if not isinstance(body, GraphProto):
        raise ModelError(f"{label(node)}: expected a graph as the attribute {name}, got {body!r}")
    return body


def _first(node: NodeProto, count: int) -> tuple[str, ...]:
    """Return the inputs that a node must have."""
    if len(node.input) < count or "" in node.input[:count]:
        raise ModelError(f"{label(node)}: expected {count} inputs, got {list(node.input)!r}")
    return tuple(node.input[:count])


def _expect(node: NodeProto, what: str, expected: int, got: int) -> None:
    if expected != got:
        raise ModelError(f"{label(node)}: expected {expected} {what}, got {got}")


def name_of(node: NodeProto) -> str:
    """Return the name of a node, or that of its first output."""
    return node.name or next((name for name in node.output if name), "")
