"""The four-layer CNN of a lab on distributed inference.

Four 3 x 3 convolutions of 128 filters over a 3 x 32 x 32 image, in float16, without padding: each
takes 2 from the height and the width, so y is [batch, 128, 24, 24]. That much the lab says.
It leaves open, and is chosen here: stride 1, a bias and a Relu after every convolution, and the
weights, which are drawn.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from ..builder import Builder
from .layers import drawn, drawn_bias

CHANNELS, SIZE = 3, 32
"""Of the image."""
LAYERS, FILTERS, KERNEL = 4, 128, 3
DTYPES = ("float16", "float32")


def build(dtype: str = "float32", batch: int | str = "batch", seed: int = 0) -> ModelProto:
    """Build x [batch, 3, 32, 32] -> y [batch, 128, 24, 24], with weights drawn from `seed`.

    303,330,816 multiply-adds for an image. Raises ValueError.
    """
    if dtype not in DTYPES:
        raise ValueError(f"expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    rng = np.random.default_rng(seed)
    g = Builder("cnn")
    value = g.input("x", dtype, [batch, CHANNELS, SIZE, SIZE])
    channels = CHANNELS
    for k in range(LAYERS):
        with g.scope(f"layer.{k}"):
            shape = (FILTERS, channels, KERNEL, KERNEL)
            weight = g.weight("weight", drawn(rng, shape, channels * KERNEL**2).astype(dtype))
            bias = g.weight("bias", drawn_bias(rng, FILTERS).astype(dtype))
            value = g.op("Conv", value, weight, bias)
            value = g.op("Relu", value, out="y" if k == LAYERS - 1 else None)
        channels = FILTERS
    size = SIZE - LAYERS * (KERNEL - 1)
    g.output("y", dtype, [batch, FILTERS, size, size])
    return g.model()
