"""Experts that are spread over ranks, against numpy and against all of them in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from sessions import Array, run

ROWS, HIDDEN, INNER, EXPERTS = 7, 8, 6, 12


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "w1": drawn(EXPERTS, INNER, HIDDEN), "b1": drawn(EXPERTS, INNER),
    "w2": drawn(EXPERTS, HIDDEN, INNER), "b2": drawn(EXPERTS, HIDDEN),
}  # fmt: skip
FEEDS = {"x": drawn(ROWS, HIDDEN), "router": drawn(ROWS, EXPERTS)}


def model(op_type: str, biases: bool, own: slice, **attributes: Any) -> onnx.ModelProto:
    """A graph of one node, with the weights of some experts; the last bias is that of all."""
    inputs = ["x", "router", "w1", "b1" if biases else "", "w2", "b2" if biases else ""]
    node = helper.make_node(op_type, inputs, ["y"], domain="com.microsoft", **attributes)
    weights = {name: w if name == "b2" else w[own] for name, w in WEIGHTS.items()}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, 1, list(x.shape)) for name, x in FEEDS.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(w, name) for name, w in weights.items() if name in inputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def in_numpy(biases: bool, k: int, is_normalised: bool) -> Array:
    made = np.zeros((ROWS, HIDDEN), np.float32)
    for row, (x, scores) in enumerate(zip(FEEDS["x"], FEEDS["router"], strict=True)):
        chances = np.exp(scores) / np.exp(scores).sum()
        best = np.argsort(-chances)[:k]
        scale = chances[best].sum() if is_normalised else 1.0
        for expert in best:
            w1, b1, w2, b2 = (w[expert] for w in WEIGHTS.values())
            inner = np.maximum(w1 @ x + b1 * biases, 0)
            made[row] += chances[expert] / scale * (w2 @ inner + b2 * biases)
    return made


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize(("k", "normalised"), [(1, 0), (3, 0), (3, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_experts_of_all_ranks_give_what_all_experts_give(
    size: int, k: int, normalised: int, biases: bool
) -> None:
    how = {"k": k, "normalize_routing_weights": normalised, "activation_type": "relu"}
    each = EXPERTS // size

    def of_rank(rank: int) -> onnx.ModelProto:
        own = slice(rank * each, (rank + 1) * each)
        return model("ShardedMoE", biases, own, local_experts_start_index=own.start, **how)

    plain = model("MoE", biases, slice(None), **how).SerializeToString()
    (whole,) = onnxruntime.InferenceSession(plain).run(None, FEEDS)
    np.testing.assert_allclose(whole, in_numpy(biases, k, bool(normalised)), rtol=1e-4, atol=1e-4)
    for (y,) in run(size, of_rank, lambda rank: FEEDS):
        np.testing.assert_allclose(y, whole, rtol=1e-4, atol=1e-4)
