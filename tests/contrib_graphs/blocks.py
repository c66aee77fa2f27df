"""Weights that are quantised in blocks: products, and tables of words."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import onnx
from case import Case, build, integers, normal, numbers, scales
from onnx import numpy_helper


def nbits(name: str, n: int, k: int, block: int, bits: int = 4, zeros: bool = True) -> Any:
    """The weight of a MatMulNBits, its scales and its packed zero points."""
    blocks = -(-k // block)
    found = {
        f"{name}_q": integers(n, blocks, block * bits // 8),
        f"{name}_s": scales(n, blocks, factor=1.5 if bits == 4 else 0.1),
    }
    if zeros:
        found[f"{name}_z"] = integers(n, -(-blocks * bits // 8))
    return found


def column_row(block: int, bits: int, zeros: bool = True, count: int = 8) -> Case:
    """A product by integers in blocks, and one back, with so many blocks in the middle."""
    width = count * block
    first, second = (
        nbits("a", width, 32, 16, bits, zeros),
        nbits("b", 9, width, block, bits, zeros),
    )
    a, b = (f"{name}_q, {name}_s, {f'{name}_z' if zeros else ''}" for name in "ab")
    model = build(
        f"""(float[b,32] x) => (float[b,9] y) {{
          h = .MatMulNBits <K=32, N={width}, bits={bits}, block_size=16> (x, {a}, , abias)
          r = .QuickGelu(h)
          y = .MatMulNBits <K={width}, N=9, bits={bits}, block_size={block}> (r, {b}, , bbias)
        }}""",
        **first, **second, abias=(width,), bbias=(9,),
    )  # fmt: skip
    return Case(model, {"x": normal(3, 32)})


def flattened(case: Case) -> Case:
    """The same graph with scales and zero points in one dim, as older files have them."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for tensor in model.graph.initializer:
        if tensor.name[-2:] in ("_s", "_z"):
            array = numpy_helper.to_array(tensor).reshape(-1)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return Case(model, case.feeds)


def table(zeros: bool, bits: int = 4, hidden: int = 96) -> Case:
    """A table of words in blocks, and the same one as the last matrix, as genai ties them."""
    blocks = hidden // 32
    extra = {"z": integers(30, -(-blocks * bits // 8))} if zeros else {}
    model = build(
        f"""(int64[b,s] ids) => (float[b,s,30] y, float[b,s,{hidden}] e) {{
          flat = Constant <value_ints=[30,-1]> ()
          rows = Reshape(q, flat)
          e = .GatherBlockQuantized <bits={bits}, block_size=32, gather_axis=0, quantize_axis=1>
            (rows, ids, s1 {", z" if zeros else ""})
          n = SimplifiedLayerNormalization <axis=-1, epsilon=0.001> (e, g)
          y = .MatMulNBits <K={hidden}, N=30, bits={bits}, block_size=32>
            (n, q, s1 {", z" if zeros else ""})
        }}""",
        q=integers(30, blocks, 32 * bits // 8),
        s1=scales(30, blocks),
        g=(hidden,),
        **extra,
    )
    return Case(model, {"ids": numbers(2, 4, low=-30, high=30)})


FOUR_BITS = Case(
    build(
        """(int64[b,s] ids) => (float[b,s,9] y) {
          e = .GatherBlockQuantized <block_size=32, gather_axis=0, quantize_axis=1>
            (rows, ids, s1, z)
          y = MatMul(e, w)
        }""",
        rows=integers(30, 96, low=-8, high=8, dtype=ml_dtypes.int4),
        s1=scales(30, 3, factor=8), w=(96, 9),
        z=integers(30, 3, low=-8, high=8, dtype=ml_dtypes.int4),
    ),
    {"ids": numbers(2, 4, low=-30, high=30)},
)  # fmt: skip
"""A table whose elements onnx knows to be of four bits."""

MIDDLE_ROWS = Case(
    build(
        """(int64[b,s] ids) => (float[3,b,s,9] y) {
          e = .GatherBlockQuantized <block_size=32, gather_axis=1, quantize_axis=2>
            (rows, ids, s1)
          y = MatMul(e, w)
        }""",
        rows=integers(3, 30, 96, low=-8, high=8, dtype=ml_dtypes.int4),
        s1=scales(3, 30, 3, factor=8), w=(96, 9),
    ),
    {"ids": numbers(2, 4, low=-30, high=30)},
)  # fmt: skip
"""Three tables, in which the same words are looked up."""
