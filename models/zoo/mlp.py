"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from ..builder import Builder
from .layers import Array, drawn, drawn_bias, find_activation, linear


def gemm(g: Builder, x: str, weight: Array, bias: Array, out: str | None = None) -> str:
    """Add x @ weight + bias as one Gemm, its weight stored transposed. x [k, m]."""
    return g.op("Gemm", x, g.weight("weight", weight.T), g.weight("bias", bias), out=out, transB=1)


LAYERS = {"MatMul": linear, "Gemm": gemm}


def build(
    widths: Sequence[int] = (64, 256, 64),
    *,
    activation: str = "relu",
    product: str = "MatMul",
    seed: int = 0,
) -> ModelProto:
    """Build x [batch, widths[0]] -> y [batch, widths[-1]] in float32, weights drawn from `seed`.

    A layer for each two neighbours in `widths`: a product, "MatMul" or "Gemm", with a bias, and
    the activation after all but the last. Raises ValueError.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"expected two or more widths of at least 1, got {tuple(widths)!r}")
    if product not in LAYERS:
        raise ValueError(f"expected a product of {', '.join(LAYERS)}, got {product!r}")
    activate = find_activation(activation)
    rng = np.random.default_rng(seed)
    g = Builder("mlp")
    value = g.input("x", np.float32, ["batch", widths[0]])
    last = len(widths) - 2
    for k in range(last + 1):
        fan_in, width = widths[k : k + 2]
        with g.scope(f"layer.{k}"):
            weight, bias = drawn(rng, (fan_in, width), fan_in), drawn_bias(rng, width)
            value = LAYERS[product](g, value, weight, bias, "y" if k == last else None)
            if k < last:
                value = activate(g, value)
    g.output("y", np.float32, ["batch", widths[-1]])
    return g.model()
