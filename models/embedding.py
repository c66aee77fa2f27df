"""Nodes that are taken apart, so that what is inside of them can be sharded.

EmbedLayerNormalization normalises the sum of what it looks up. A rank that has some rows of a
table has some terms of that sum, and it takes all of them to normalise: these are two steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from .contrib import DOMAIN
from .nodes import attribute
from .weights import Weight


def apart(
    nodes: Iterable[NodeProto], opset: int, weights: dict[str, Weight]
) -> Iterator[NodeProto]:
    """Yield nodes, some of them in parts. What the parts need is added to the weights."""
    for node in nodes:
        if node.domain == DOMAIN and node.op_type == "EmbedLayerNormalization":
            body = _Body(node.output[0], opset, weights)
            _embed(node, body)
            yield from body.nodes
        else:
            yield node


@dataclass
class _Body:
    """The parts of a node, named after its first output."""

    name: str
    opset: int
    weights: dict[str, Weight]
    nodes: list[NodeProto] = field(default_factory=list)

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"{self.name}/constant.{len(self.weights)}"
        self.weights[name] = Weight.from_array(name, np.array(value, np.int64))
        return name

    def node(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{self.name}/{op_type}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output


def _embed(node: NodeProto, body: _Body) -> None:
    """Look words, places and types up; add; normalise; count the tokens of each row."""
    given = list(node.input) + [""] * (9 - len(node.input))
    ids, kinds, words, places, types, gamma, beta, mask, numbers = given
    made, count, total = list(node.output) + [""] * (3 - len(node.output))
    rows = body.node("Gather", places, numbers or _numbers(body, ids))
    if kinds:
        rows = body.node("Add", rows, body.node("Gather", types, kinds))
    found = body.node("Gather", words, ids)
    body.nodes.append(
        helper.make_node(
            "SkipLayerNormalization", [found, rows, gamma, beta], [made, "", "", total],
            node.name or made, domain=DOMAIN, epsilon=attribute(node, "epsilon", 1e-12),
        )
    )  # fmt: skip
    if count:
        _count(body, ids, mask, count)


def _numbers(body: _Body, ids: str) -> str:
    """Number the tokens of a row."""
    length = body.node("Gather", body.node("Shape", ids), body.constant(1))
    return body.node("Range", body.constant(0), length, body.constant(1))


def _count(body: _Body, ids: str, mask: str, output: str) -> None:
    """Count the tokens of each row that are no padding; without a mask the count is 0."""
    if not mask:
        mask = body.node("Sub", ids, ids)
    if body.opset < 13:
        body.node("ReduceSum", mask, output=output, axes=[1], keepdims=0)
    else:
        body.node("ReduceSum", mask, body.constant([1]), output=output, keepdims=0)
