"""A small transformer as an exporter writes it: heads, Reshapes, norms whole and in pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from case import build, numbers

WORDS, WIDTH, HEADS = 305, 24, 6


def transformer(layers: int = 2, width: int = WIDTH) -> onnx.ModelProto:
    """Return a model of tokens [b, s] whose layers end in two sums over ranks each."""
    lines = [
        f"(int64[b,s] ids) => (float[b,s,{WORDS}] logits) {{",
        "e = Gather(table, ids)",
        "shape = Shape(ids)",
        "long = Concat <axis=0> (shape, wide)",
        "s = Gather(shape, second)",
        "counted = Range(start, s, second)",
        "places = CastLike(counted, speeds)",
        "column = Unsqueeze(places, last)",
        "p = Mul(column, speeds)",
        "x0 = Add(e, p)",
    ]
    weights: dict[str, Any] = {
        "table": (WORDS, width), "speeds": (width,), "head": (width, WORDS),
        "start": 0, "second": 1, "wide": [width], "one": [0, 0, width],
        "two": [0, 0, HEADS, width // HEADS], "flat": [-1, width],
        "last": [-1], "square": np.float32(2), "tiny": np.float32(1e-5),
    }  # fmt: skip
    for k in range(layers):
        lines += _attention(k) + _feed_forward(k)
        for name in ("wq", "wk", "wv", "wo"):
            weights[f"{name}{k}"] = (width, width)
        weights |= {f"{name}{k}": (width,) for name in ("g", "c", "bo", "h", "bd")}
        weights |= {f"up{k}": (width, 4 * width), f"bu{k}": (4 * width,)}
        weights[f"down{k}"] = (4 * width, width)
    lines.append(f"logits = MatMul(x{layers}, head) }}")
    return build("\n".join(lines), **weights)


def _attention(k: int) -> list[str]:
    return [
        f"n{k} = LayerNormalization <axis=-1> (x{k}, g{k}, c{k})",
        *(f"{name}{k} = MatMul(n{k}, w{name}{k})" for name in "qkv"),
        *(f"{name}h{k} = Reshape({name}{k}, two)" for name in "qkv"),
        *(f"{name}t{k} = Transpose <perm=[0,2,1,3]> ({name}h{k})" for name in "qv"),
        f"kt{k} = Transpose <perm=[0,2,3,1]> (kh{k})",
        f"scores{k} = MatMul(qt{k}, kt{k})",
        f"seen{k} = Softmax(scores{k})",
        f"found{k} = MatMul(seen{k}, vt{k})",
        f"back{k} = Transpose <perm=[0,2,1,3]> (found{k})",
        f"merged{k} = Reshape(back{k}, one)",
        f"o{k} = MatMul(merged{k}, wo{k})",
        f"ob{k} = Add(o{k}, bo{k})",
        f"y{k} = Add(x{k}, ob{k})",
    ]


def _feed_forward(k: int) -> list[str]:
    """A norm in pieces, and products of two dims, as GPT-2 has them."""
    return [
        f"sq{k} = Pow(y{k}, square)",
        f"mean{k} = ReduceMean(sq{k}, last)",
        f"safe{k} = Add(mean{k}, tiny)",
        f"root{k} = Sqrt(safe{k})",
        f"div{k} = Div(y{k}, root{k})",
        f"m{k} = Mul(div{k}, h{k})",
        f"mf{k} = Reshape(m{k}, flat)",
        f"u{k} = Gemm(mf{k}, up{k}, bu{k})",
        f"r{k} = Relu(u{k})",
        f"d{k} = Gemm(r{k}, down{k}, bd{k})",
        f"df{k} = Reshape(d{k}, long)",
        f"x{k + 1} = Add(y{k}, df{k})",
    ]


def tokens(batch: int, length: int) -> dict[str, Any]:
    return {"ids": numbers(batch, length, high=WORDS)}
