"""Attention by head and by group, with caches, masks and rotations."""

from __future__ import annotations

import numpy as np
from case import Case, build, normal, numbers

SELF_ATTENTION = Case(
    build(
        """(float[b,s,20] x, int32[b,s] mask) => (float[b,s,9] y, float[2,b,5,s,8] kv) {
          h, kv = .Attention <num_heads=5, unidirectional=1> (x, w, bias, mask)
          y = MatMul(h, wo)
        }""",
        w=(20, 120), bias=(120,), wo=(40, 9),
    ),
    {"x": normal(2, 6, 20), "mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32)},
)  # fmt: skip

NARROW_VALUES = Case(
    build(
        """(float[b,s,20] x, float[1,5,s,s] bias) => (float[b,s,9] y) {
          h = .Attention <num_heads=5, qkv_hidden_sizes=[40,40,20]> (x, w, b, , , bias)
          y = MatMul(h, wo)
        }""",
        w=(20, 100), b=(100,), wo=(20, 9),
    ),
    {"x": normal(2, 6, 20), "bias": normal(1, 5, 6, 6)},
)  # fmt: skip
"""Values half as wide as keys, and a bias that differs by head."""

PAST_ATTENTION = Case(
    build(
        """(float[b,s,20] x, float[2,b,5,p,8] past) => (float[b,s,9] y, float[2,b,5,t,8] kv) {
          h, kv = .Attention <num_heads=5, unidirectional=1> (x, w, bias, , past)
          y = MatMul(h, wo)
        }""",
        w=(20, 120), bias=(120,), wo=(40, 9),
    ),
    {"x": normal(2, 3, 20), "past": normal(2, 2, 5, 4, 8)},
)  # fmt: skip

MULTI_HEAD = Case(
    build(
        """(float[b,s,20] x, int32[b,s] mask, float[1,5,s,s] bias) => (float[b,s,9] y) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          h = .MultiHeadAttention <num_heads=5> (q, k, v, b, mask, bias)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wk=(20, 40), wv=(20, 40), b=(120,), wo=(40, 9),
    ),
    {
        "x": normal(2, 6, 20),
        "mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32),
        "bias": normal(1, 5, 6, 6),
    },
)  # fmt: skip

LENGTHS = Case(
    build(
        """(float[b,s,20] x, int32[b] lengths) => (float[b,s,9] y) {
          h = .Attention <num_heads=5> (x, w, bias, lengths)
          v = .MultiHeadAttention <num_heads=5> (h, h, h, , lengths)
          y = MatMul(v, wo)
        }""",
        w=(20, 120), bias=(120,), wo=(40, 9),
    ),
    {"x": normal(2, 6, 20), "lengths": np.array([6, 4], np.int32)},
)  # fmt: skip

MULTI_HEAD_PAST = Case(
    build(
        """(float[b,s,20] x, float[b,5,p,8] pk, float[b,5,p,8] pv) =>
           (float[b,s,9] y, float[b,5,t,8] kk, float[b,5,t,8] kv) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          h, kk, kv = .MultiHeadAttention <num_heads=5, unidirectional=1> (q, k, v, , , , pk, pv)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wk=(20, 40), wv=(20, 40), wo=(40, 9),
    ),
    {"x": normal(2, 3, 20), "pk": normal(2, 5, 4, 8), "pv": normal(2, 5, 4, 8)},
)  # fmt: skip

CROSS_ATTENTION = Case(
    build(
        """(float[b,s,20] x, float[b,5,t,8] k, float[b,5,t,8] v) => (float[b,s,9] y) {
          q = MatMul(x, wq)
          h = .MultiHeadAttention <num_heads=5> (q, k, v, bq)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wo=(40, 9), bq=(120,),
    ),
    {"x": normal(2, 3, 20), "k": normal(2, 5, 7, 8), "v": normal(2, 5, 7, 8) + 1},
)  # fmt: skip
"""Keys and values that an encoder left, already by head."""


def decoder(
    heads: int, groups: int, packed: bool, options: str = "", length: int = 1, past: int = 5
) -> Case:
    """Grouped queries with caches, lengths, and rotations, as onnxruntime-genai writes them."""
    width, q, k = 16, heads * 16, groups * 16
    batch = 1 if past and length > 1 else 2  # a kernel of onnxruntime asks for it
    mask = np.ones((batch, length + past), np.int64)
    mask[1:, -2:] = 0
    inner = (
        "qkv0 = MatMul(x, w) \n qkv = Add(qkv0, bias)"
        if packed
        else "q = MatMul(x, wq) \n k = MatMul(x, wk) \n v = MatMul(x, wv)"
    )
    weights = (
        {"w": (20, q + 2 * k), "bias": (q + 2 * k,)}
        if packed
        else {"wq": (20, q), "wk": (20, k), "wv": (20, k)}
    )
    model = build(
        f"""(float[b,s,20] x, float[b,{groups},p,{width}] pk, float[b,{groups},p,{width}] pv,
            int64[b,t] mask) =>
           (float[b,s,9] y, float[b,{groups},t,{width}] kk, float[b,{groups},t,{width}] kv) {{
          {inner}
          one = Constant <value_ints=[1]> ()
          zero = Constant <value_int=1> ()
          n = ReduceSum <keepdims=0> (mask, one)
          m = Sub(n, one)
          seqlens = Cast <to=6> (m)
          size = Shape(mask)
          total64 = Gather(size, zero)
          total = Cast <to=6> (total64)
          h, kk, kv = .GroupQueryAttention
            <num_heads={heads}, kv_num_heads={groups}, do_rotary=1 {options}>
            ({"qkv, , " if packed else "q, k, v"}, pk, pv, seqlens, total, cos, sin)
          y = MatMul(h, wo)
        }}""",
        **weights,
        wo=(q, 9),
        cos=np.cos(np.outer(np.arange(32), 0.3 ** np.arange(width // 2))).astype(np.float32),
        sin=np.sin(np.outer(np.arange(32), 0.3 ** np.arange(width // 2))).astype(np.float32),
    )
    return Case(
        model,
        {
            "x": normal(batch, length, 20),
            "pk": normal(batch, groups, past, width),
            "pv": normal(batch, groups, past, width) + 1,
            "mask": mask,
        },
    )


BIASED_GROUPS = Case(
    build(
        """(float[b,s,20] x, int32[b] m, float[1,6,s,s] bias) =>
           (float[b,s,9] y, float[b,3,s,16] kk, float[b,3,s,16] kv) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          total = Constant <value = int32[1] {5}> ()
          h, kk, kv = .GroupQueryAttention <num_heads=6, kv_num_heads=3, scale=0.3>
            (q, k, v, , , m, total, , , , bias, sink)
          y = MatMul(h, wo)
        }""",
        wq=(20, 96), wk=(20, 48), wv=(20, 48), wo=(96, 9), sink=(6,),
    ),
    {"x": normal(2, 5, 20), "m": np.array([4, 4], np.int32), "bias": normal(1, 6, 5, 5)},
)  # fmt: skip
"""A bias and a sink that differ by head."""

ROTATED = Case(
    build(
        """(float[b,s,20] x, int64[b,s] ids) => (float[b,s,9] y) {
          q = MatMul(x, wq)
          r = .RotaryEmbedding (q, ids, cos, sin)
          u = .RotaryEmbedding <num_heads=5, rotary_embedding_dim=4, interleaved=1>
            (r, ids, cos4, sin4)
          shape = Constant <value_ints=[0,0,5,8]> ()
          flat = Constant <value_ints=[0,0,40]> ()
          q4 = Reshape(u, shape)
          q5 = Transpose <perm=[0,2,1,3]> (q4)
          r5 = .RotaryEmbedding (q5, ids, cos, sin)
          r4 = Transpose <perm=[0,2,1,3]> (r5)
          h = Reshape(r4, flat)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wo=(40, 9),
        cos=np.cos(normal(12, 4)), sin=np.sin(normal(12, 4)),
        cos4=np.cos(normal(12, 2)), sin4=np.sin(normal(12, 2)),
    ),
    {"x": normal(2, 3, 20), "ids": numbers(2, 3, high=12)},
)  # fmt: skip
