"""Recurrent layers in all their forms, small: 7 hidden units, so that no number of ranks divides.

Weights are drawn anew for each form, so that no gate is like another.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import onnx
from case import Case
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS = {
    "x": "", "w": "", "r": "", "b": "b", "n": "n", "h": "h", "c": "c", "p": "p",
}  # fmt: skip
"""Inputs in order, and the letter by which a form asks for one that may be absent."""

STEPS, BATCH, WIDTH, HIDDEN = 5, 4, 3, 7
LENGTHS = np.array([5, 0, 2, 4], np.int32)


def layer(
    op: str,
    asked: str = "b",
    hidden: int = HIDDEN,
    opset: int = 17,
    dtype: Any = np.float32,
    **attributes: Any,
) -> Case:
    """Return a model of one layer that has the inputs asked for, and what to feed it.

    Weights are initializers; all else is fed, with open numbers of steps and sequences.
    """
    rng = np.random.default_rng(zlib.crc32(f"{op} {asked} {attributes}".encode()))
    sides = 2 if attributes.get("direction") == "bidirectional" else 1
    is_batch_first = bool(attributes.get("layout", 0))
    rows = GATES[op] * hidden

    def drawn(*shape: int) -> Any:
        return (0.7 * rng.standard_normal(shape)).astype(dtype)

    weights = {"w": drawn(sides, rows, WIDTH), "r": drawn(sides, rows, hidden)}
    weights |= {"b": drawn(sides, 2 * rows)} if "b" in asked else {}
    weights |= {"p": drawn(sides, 3 * hidden)} if "p" in asked else {}
    feeds: dict[str, Any] = {"x": drawn(STEPS, BATCH, WIDTH)}
    feeds |= {"n": LENGTHS} if "n" in asked else {}
    feeds |= {name: drawn(sides, BATCH, hidden) for name in "hc" if name in asked}
    if is_batch_first:
        feeds |= {k: v.swapaxes(0, 1).copy() for k, v in feeds.items() if k != "n"}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    orders: dict[str, list[int | str]] = {
        "x": ["s", "b", WIDTH], "h": [sides, "b", hidden], "c": [sides, "b", hidden],
        "y": ["s", sides, "b", hidden], "n": ["b"],
    }  # fmt: skip
    orders |= {"yh": orders["h"], "yc": orders["h"]}
    if is_batch_first:
        orders |= {k: [v[1], v[0], *v[2:]] for k, v in orders.items() if k not in "ny"}
        orders["y"] = ["b", "s", sides, hidden]
    made = ["y", "yh", "yc"][: 3 if op == "LSTM" else 2]
    given = [name if name in weights or name in feeds else "" for name in INPUTS]
    while not given[-1]:
        given.pop()
    graph = helper.make_graph(
        [helper.make_node(op, given, made, "layer", hidden_size=hidden, **attributes)],
        "g",
        [
            helper.make_tensor_value_info(k, TensorProto.INT32 if k == "n" else kind, orders[k])
            for k in feeds
        ],
        [helper.make_tensor_value_info(k, kind, orders[k]) for k in made],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return Case(_model(graph, opset), feeds)


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


BOTH: dict[str, Any] = {"direction": "bidirectional"}

FORMS: dict[str, Case] = {
    "LSTM": layer("LSTM"),
    "LSTM of every input, both ways": layer("LSTM", "bnhcp", **BOTH),
    "LSTM with coupled gates, clipped": layer("LSTM", "bhcp", input_forget=1, clip=0.4),
    "LSTM of lengths, backward": layer("LSTM", "nc", direction="reverse"),
    "LSTM of other activations": layer(
        "LSTM", "bh", activations=["hardsigmoid", "LeakyRelu", "Affine"],
        activation_alpha=[0.3, 0.1, 0.7], activation_beta=[0.4, 0.1],
    ),
    "LSTM of two kinds of activations": layer(
        "LSTM", "b", **BOTH, activations=["Sigmoid", "Tanh", "Relu", "Relu", "Softsign", "Tanh"],
    ),
    "LSTM of half precision": layer("LSTM", "bhc", dtype=np.float16),
    "LSTM of an old opset": layer("LSTM", "bn", opset=10, direction="reverse"),
    "LSTM of a new opset": layer("LSTM", "bnc", opset=22, **BOTH),
    "GRU": layer("GRU"),
    "GRU of every input, both ways": layer("GRU", "bnh", **BOTH),
    "GRU that resets after the product": layer("GRU", "bnh", **BOTH, linear_before_reset=1),
    "GRU that resets after, without biases": layer(
        "GRU", "h", opset=10, linear_before_reset=1
    ),
    "GRU, clipped, backward": layer(
        "GRU", "bn", direction="reverse", clip=0.3, linear_before_reset=1
    ),
    "GRU of other activations": layer(
        "GRU", "b", activations=["HardSigmoid", "Elu"], activation_alpha=[0.3, 0.5],
        activation_beta=[0.6],
    ),
    "RNN": layer("RNN"),
    "RNN of every input, both ways": layer("RNN", "bnh", **BOTH, clip=0.5),
    **{
        f"RNN of {name}": layer(
            "RNN", activations=[name], activation_alpha=[0.3], activation_beta=[0.6]
        )
        for name in ("Affine", "ScaledTanh", "Softplus", "ThresholdedRelu")
    },
}  # fmt: skip
"""Layers that onnxruntime runs."""


def packed(hidden: int = HIDDEN) -> Case:
    """Return an LSTM as exporters write it: gates in another order, put right in the graph."""
    case = layer("LSTM", "b", hidden)
    graph = case.model.graph
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)[0]
        count = 8 if tensor.name == "b" else 4
        pieces = [f"{tensor.name}{k}" for k in range(count)]
        tensor.CopyFrom(numpy_helper.from_array(array, f"{tensor.name}_packed"))
        split = helper.make_node("Split", [tensor.name], pieces, axis=0)
        order = [pieces[4 * (k // 4) + (0, 3, 1, 2)[k % 4]] for k in range(count)]
        name = tensor.name[0]
        nodes = [
            split,
            helper.make_node("Concat", order, [f"{name}_flat"], axis=0),
            helper.make_node("Unsqueeze", [f"{name}_flat", "zero"], [name]),
        ]
        for node in reversed(nodes):
            graph.node.insert(0, node)
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    return case


def stack(hidden: int, layers: int = 2, op: str = "LSTM", **attributes: Any) -> onnx.ModelProto:
    """Return layers one upon the other, and a product behind them."""
    rng = np.random.default_rng(0)
    nodes, weights, x = list[onnx.NodeProto](), {"one": np.array([1])}, "x"
    for k in range(layers):
        for name in "wr":
            drawn = rng.standard_normal((1, GATES[op] * hidden, hidden), np.float32)
            weights[f"{name}{k}"] = drawn * np.float32(hidden**-0.5)
        made = [f"y{k}"]
        nodes.append(
            helper.make_node(
                op, [x, f"w{k}", f"r{k}"], made, f"layer{k}", hidden_size=hidden, **attributes
            )
        )
        x = f"z{k}"
        nodes.append(helper.make_node("Squeeze", [*made, "one"], [x]))
    weights["head"] = rng.standard_normal((hidden, 10)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [x, "head"], ["out"], "product"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s", "b", hidden])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["s", "b", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return _model(graph, 17)
