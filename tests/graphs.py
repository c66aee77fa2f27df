"""Small graphs with a shape of everything that the rules speak of, and what to feed them.

Random weights and biases of order 1, dims that do not divide, so that a wrong branch shows.
"""

from __future__ import annotations

import numpy as np
from attention_graphs import CACHED, GROUPED_QUERIES, PACKED_QKV
from branch_graphs import APART, BRANCHES
from case import Case, build, half, normal

MLP = Case(
    build(
        """(float[b,16] x) => (float[b,9] y) {
          h = MatMul(x, w1)
          h1 = Add(h, b1)
          h2 = Relu(h1)
          y = Gemm(h2, w2, b2)
        }""",
        w1=(16, 30),
        b1=(30,),
        w2=(30, 9),
        b2=(9,),
    ),
    {"x": normal(5, 16)},
)

CNN = Case(
    build(
        """(float[b,3,12,12] x) => (float[b,10] y) {
          c1 = Conv <pads=[1,1,1,1]> (x, w1, b1)
          r1 = Relu(c1)
          p1 = MaxPool <kernel_shape=[2,2],strides=[2,2]> (r1)
          c2 = Conv <group=4> (p1, w2)
          bn = BatchNormalization(c2, s, bi, mu, va)
          r2 = Relu(bn)
          dw = Conv <group=12> (r2, wd)
          c3 = Conv (dw, w3, b3)
          twice = Add(c3, c3)
          gap = GlobalAveragePool(twice)
          fl = Flatten(gap)
          y = Gemm <transB=1> (fl, wf, bf)
        }""",
        w1=(8, 3, 3, 3),
        b1=(8,),
        w2=(12, 2, 3, 3),
        s=(12,),
        bi=(12,),
        mu=(12,),
        va=np.abs(normal(12)) + np.float32(0.1),
        wd=(12, 1, 1, 1),
        w3=(7, 12, 1, 1),
        b3=(7,),
        wf=(10, 7),
        bf=(10,),
    ),
    {"x": normal(3, 3, 12, 12)},
)

FLATTENED_CONVOLUTION = Case(
    build(
        """(float[b,3,6,6] x) => (float[b,5] y, float[b,8,4,4] c) {
          c = Conv (x, w1, b1)
          fl = Flatten(c)
          y = Gemm (fl, wf)
        }""",
        w1=(8, 3, 3, 3),
        b1=(8,),
        wf=(128, 5),
    ),
    {"x": normal(2, 3, 6, 6)},
)

STRUCTURE = Case(
    build(
        """(float[b,8] x, int64[b,2] ids) => (float[b,4] y, float[b,2,8] e, float[a,z] d) {
          h = MatMul(x, w)
          cs = CumSum(h, ax)
          det = Einsum <equation="bi,io->bo"> (cs, w2)
          e = Gather(tab, ids)
          t = Tile(det, reps)
          d0 = Pad(det, pads)
          d = Relu(d0)
          y, best = TopK(t, kk)
        }""",
        w=(8, 10),
        w2=(10, 9),
        tab=(13, 8),
        reps=[1, 2],
        pads=[0, 0, 0, 3],
        kk=[4],
        ax=np.int64(1),
    ),
    {"x": normal(3, 8), "ids": np.array([[-1, 3], [12, 0], [-13, 5]])},
)
"""Axes that an operator needs whole, negative indices, padding and repetition."""

NORMALISED = Case(
    build(
        """(float[b,s,12] x) => (float[b,s,12] y, float[b,12] pooled) {
          n = LayerNormalization(x, g, be)
          u = MatMul(n, w1)
          sh = Shape(u)
          rows = Constant <value_ints=[-1,20]> ()
          u2 = Reshape(u, rows)
          a = Sigmoid(u2)
          z = ConstantOfShape(sh)
          back = Reshape(a, sh)
          zb = Where(mask, back, z)
          one = Constant <value_float=1.0> ()
          cl = Clip(zb, one0, one)
          v = MatMul(cl, w2)
          y = Add(v, x)
          mean = ReduceMean <keepdims=1> (y, i1)
          pooled = Squeeze(mean, i1)
        }""",
        g=(12,),
        be=(12,),
        w1=(12, 20),
        w2=(20, 12),
        i1=[1],
        one0=np.float32(-1),
        mask=np.arange(20) % 3 > 0,
    ),
    {"x": normal(2, 3, 12)},
)
"""A Reshape that joins open dims, a tensor that is born whole, a mask."""

TRUNCATED = Case(
    build(
        """(float[b,s,24] x) => (float[b,t,24] y) {
          z = Slice(x, i0, i128, i1)
          h = MatMul(z, w1)
          r = Constant <value_ints=[0,0,6,4]> ()
          h4 = Reshape(h, r)
          a = Relu(h4)
          r2 = Constant <value_ints=[0,0,24]> ()
          a3 = Reshape(a, r2)
          y = MatMul(a3, w2)
        }""",
        w1=(24, 24),
        w2=(24, 24),
        i0=[0],
        i1=[1],
        i128=[128],
    ),
    {"x": normal(2, 5, 24)},
)
"""At most 128 tokens: a size that is fixed only where more are fed."""

PREFIXED = Case(
    build(
        """(float[s,8] x) => (float[t,8] y) {
          h = MatMul(x, w1)
          c = Concat <axis=0> (prefix, h)
          r = Relu(c)
          y = MatMul(r, w2)
        }""",
        prefix=(6, 12),
        w1=(8, 12),
        w2=(12, 8),
    ),
    {"x": normal(5, 8)},
)
"""Rows of a weight before rows that are fed."""

POOLED = Case(
    build(
        """(float[b,3,6,6] x) => (float[b,8,3,3] y, int64[b,8,3,3] places, int32[b,1] mean) {
          c = Conv(x, w)
          y, places = MaxPool <kernel_shape=[2,2],strides=[2,2]> (c)
          f = Flatten(c)
          n = Mul(f, thousand)
          i = Cast <to=6> (n)
          mean = ReduceMean(i, i1)
        }""",
        w=(8, 3, 1, 1),
        thousand=np.float32(1000),
        i1=[1],
    ),
    {"x": normal(2, 3, 6, 6)},
)
"""Places within a whole tensor, and a mean that is rounded."""

SIZES_AS_DATA = Case(
    build(
        """(float[b,s,3] x) => (float[b,s,6] y, int64[p,q,3] z) {
          h = MatMul(x, w1)
          y = MatMul(h, w2)
          s0 = Shape(x)
          z = Expand(s0, s0)
        }""",
        w1=(3, 8),
        w2=(8, 6),
    ),
    {"x": normal(2, 4, 3)},
)
"""A vector of sizes that is expanded to the sizes that it names itself."""

CASES = {
    "mlp": MLP,
    "cnn": CNN,
    "flattened_convolution": FLATTENED_CONVOLUTION,
    "packed_qkv": PACKED_QKV,
    "grouped_queries": GROUPED_QUERIES,
    "structure": STRUCTURE,
    "normalised": NORMALISED,
    "truncated": TRUNCATED,
    "prefixed": PREFIXED,
    "pooled": POOLED,
    "sizes_as_data": SIZES_AS_DATA,
    "branches": BRANCHES,
    "apart": APART,
    "cached": CACHED,
}

__all__ = ["CASES", "Case", "build", "half", "normal"]
