"""A decoder in int4."""

from __future__ import annotations

from typing import Any

import numpy as np
from case import Case, build, normal, numbers

from .blocks import nbits


def block(layer: int, groups: int, heads: int, hidden: int, inner: int) -> tuple[str, Any]:
    """A layer of a decoder in int4: `h` and `skip` come in, and go out with the next number."""
    width = 32
    q, n = heads * width, (heads + 2 * groups) * width
    here, after = f"{layer}", f"{layer + 1}"
    sizes = {"qkv": (n, hidden), "o": (hidden, q), "gate": (inner, hidden), "up": (inner, hidden)}
    sizes["down"] = (hidden, inner)
    weights: dict[str, Any] = {f"g{layer}a": (hidden,), f"g{layer}b": (hidden,)}
    calls = {}
    for name, (rows, columns) in sizes.items():
        weights |= nbits(f"{name}{here}", rows, columns, 32)
        options = f"<K={columns}, N={rows}, bits=4, block_size=32>"
        inputs = ", ".join(f"{name}{here}_{part}" for part in "qsz")
        calls[name] = f"{name}{here} = .MatMulNBits {options} (IN, {inputs})"

    def product(name: str, given: str) -> str:
        return calls[name].replace("IN", given)

    text = f"""
      {product("qkv", f"n{here}")}
      att{here}, kk{here}, kv{here} = .GroupQueryAttention
        <num_heads={heads}, kv_num_heads={groups}, do_rotary=1>
        (qkv{here}, , , pk{here}, pv{here}, seqlens, total, cos, sin)
      {product("o", f"att{here}")}
      m{here}, , , t{here} = .SkipSimplifiedLayerNormalization <epsilon=0.001>
        (skip{here}, o{here}, g{here}a)
      {product("gate", f"m{here}")}
      {product("up", f"m{here}")}
      sig{here} = Sigmoid(gate{here})
      silu{here} = Mul(gate{here}, sig{here})
      both{here} = Mul(silu{here}, up{here})
      {product("down", f"both{here}")}
      n{after}, , , skip{after} = .SkipSimplifiedLayerNormalization <epsilon=0.001>
        (t{here}, down{here}, g{here}b)
    """
    return text, weights


def language_model(layers: int, groups: int, heads: int, hidden: int, inner: int) -> Case:
    """An int4 decoder as onnxruntime-genai's builder writes it, with tied tables and caches."""
    text, weights, width = "", dict[str, Any](), 32
    for layer in range(layers):
        lines, more = block(layer, groups, heads, hidden, inner)
        text, weights = text + lines, weights | more
    each = range(layers)
    cache = f"float[b,{groups},p,{width}]"
    past = "".join(f", {cache} pk{k}, {cache} pv{k}" for k in each)
    made = "".join(f", {cache} kk{k}, {cache} kv{k}".replace("p,", "t,") for k in each)
    angles = np.outer(np.arange(32), 0.3 ** np.arange(width // 2))
    model = build(
        f"""(int64[b,s] ids, int64[b,t] mask {past}) => (float[b,s,300] logits {made}) {{
          one = Constant <value_ints=[1]> ()
          place = Constant <value_int=1> ()
          n = ReduceSum <keepdims=0> (mask, one)
          last = Sub(n, one)
          seqlens = Cast <to=6> (last)
          size = Shape(mask)
          total64 = Gather(size, place)
          total = Cast <to=6> (total64)
          flat = Constant <value_ints=[300,-1]> ()
          rows = Reshape(words_q, flat)
          skip0 = .GatherBlockQuantized <bits=4, block_size=32, gather_axis=0, quantize_axis=1>
            (rows, ids, words_s, words_z)
          n0 = SimplifiedLayerNormalization <axis=-1, epsilon=0.001> (skip0, g)
          {text}
          logits = .MatMulNBits <K={hidden}, N=300, bits=4, block_size=32>
            (n{layers}, words_q, words_s, words_z)
        }}""",
        **weights,
        **nbits("words", 300, hidden, 32),
        g=(hidden,),
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
    )
    feeds = {"ids": numbers(1, 3, high=300), "mask": np.ones((1, 7), np.int64)}
    feeds |= {f"{name}{k}": normal(1, groups, 4, width) for k in each for name in ("pk", "pv")}
    return Case(model, feeds)
