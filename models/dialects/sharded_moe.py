"""onnxruntime's ShardedMoE, each of whose ranks holds some of the experts.

Every rank routes among all experts. It runs com.microsoft MoE on its own ones, with zeros in the
place of the others, whose outputs then are zero; the outputs of all ranks add up to the whole. The
last bias is that of all experts, of which a rank keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto, helper

from ..nodes import attribute
from ..opset import DOMAIN

WEIGHTS, BIASES, LAST_BIAS = (2, 4, 6), (3, 7), 5
"""Inputs: matrices and biases of a rank's own experts, and the bias that is of all."""

START = "local_experts_start_index"
LEFT_OUT = (START, "tensor_shards")


def written_out(node: NodeProto, stem: str) -> Iterator[NodeProto]:
    """Yield the nodes that a ShardedMoE is. Raises ValueError where its place is not stated."""
    start = attribute(node, START, -1)
    if not isinstance(start, int) or start < 0:
        raise ValueError(f"expected {START} with the first of a rank's experts, got {start!r}")
    if len(node.input) < 5 or not all(node.input[:3]):
        raise ValueError(f"expected a tensor, a router's and weights, got {list(node.input)!r}")
    names = {part: f"{stem}/{part}" for part in ("all", "own", "start", "end", "after", "partial")}
    yield _shape(node.input[1], names["all"], 1)
    yield _shape(node.input[2], names["own"], 0)
    yield helper.make_node("Constant", [], [names["start"]], value_ints=[start])
    yield helper.make_node("Add", [names["start"], names["own"]], [names["end"]])
    yield helper.make_node("Sub", [names["all"], names["end"]], [names["after"]])
    inputs = list(node.input)
    for place, name in enumerate(node.input):
        if place < WEIGHTS[0] or not name:
            continue
        inputs[place] = f"{stem}/{place}"
        if place == LAST_BIAS:
            name = f"{stem}/{place}.own"
            yield helper.make_node(
                "Slice", [node.input[place], names["start"], names["end"]], [name]
            )
        yield from _padded(name, inputs[place], 3 if place in WEIGHTS else 2, names)
    made = helper.make_node("MoE", inputs, [names["partial"]], node.name, domain=node.domain)
    made.attribute.extend(entry for entry in node.attribute if entry.name not in LEFT_OUT)
    yield made
    yield helper.make_node("AllReduce", [names["partial"]], [node.output[0]], stem, domain=DOMAIN)


def _shape(tensor: str, made: str, dim: int) -> NodeProto:
    """Return what makes the length of a dim."""
    return helper.make_node("Shape", [tensor], [made], start=dim, end=dim + 1)


def _padded(tensor: str, made: str, rank: int, names: dict[str, str]) -> Iterator[NodeProto]:
    """Yield what puts zeros in the place of the experts of other ranks."""
    zeros, pads = f"{made}.zeros", f"{made}.pads"
    yield helper.make_node("Constant", [], [zeros], value_ints=[0] * (rank - 1))
    parts = [names["start"], zeros, names["after"], zeros]
    yield helper.make_node("Concat", parts, [pads], axis=0)
    yield helper.make_node("Pad", [tensor, pads], [made])
