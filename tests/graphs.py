"""Small graphs with a shape of everything that the rules speak of, and what to feed them.

Random weights and biases of order 1, dims that do not divide, so that a wrong branch shows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper, parser


class Case(NamedTuple):
    model: onnx.ModelProto
    feeds: dict[str, Any]


def build(text: str, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """Parse a graph; a weight given as a tuple of sizes is random, anything else a constant."""
    rng = np.random.default_rng(7)
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n g {text}')
    for name, value in weights.items():
        if isinstance(value, tuple):
            scale = 1.6 / np.sqrt(max(1, value[0])) if len(value) > 1 else 1.0
            value = (rng.standard_normal(value) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return model


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


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

PACKED_QKV = Case(
    build(
        """(float[b,s,24] x) => (float[b,s,24] y, float[h,s,t] sc) {
          qkv0 = MatMul(x, w)
          qkv = Add(qkv0, bias)
          q, k, v = Split <axis=-1, num_outputs=3> (qkv)
          r = Constant <value_ints=[0,0,6,4]> ()
          q4 = Reshape(q, r)
          k4 = Reshape(k, r)
          v4 = Reshape(v, r)
          q5 = Transpose <perm=[0,2,1,3]> (q4)
          k5 = Transpose <perm=[0,2,3,1]> (k4)
          v5 = Transpose <perm=[0,2,1,3]> (v4)
          shx = Shape(q5)
          sb = Slice(shx, i2, i4)
          m1 = Constant <value_ints=[-1]> ()
          t = Concat <axis=0> (m1, sb)
          q3 = Reshape(q5, t)
          shk = Shape(k5)
          sbk = Slice(shk, i2, i4)
          tk = Concat <axis=0> (m1, sbk)
          k3 = Reshape(k5, tk)
          v3 = Reshape(v5, t)
          sc = MatMul(q3, k3)
          p = Softmax <axis=-1> (sc)
          c = MatMul(p, v3)
          c4 = Reshape(c, shx)
          ct = Transpose <perm=[0,2,1,3]> (c4)
          r2 = Constant <value_ints=[0,0,24]> ()
          cr = Reshape(ct, r2)
          y = MatMul(cr, wo)
        }""",
        w=(24, 72),
        bias=(72,),
        wo=(24, 24),
        i2=[2],
        i4=[4],
    ),
    {"x": normal(2, 5, 24)},
)
"""Queries, keys and values in one weight; batch and heads merged into one dim, as torch does."""

GROUPED_QUERIES = Case(
    build(
        """(float[b,s,24] x) => (float[b,s,24] y, float[b,s] mm, float mn) {
          q0 = MatMul(x, wq)
          k0 = MatMul(x, wk)
          rq = Constant <value_ints=[0,0,6,4]> ()
          rk = Constant <value_ints=[0,0,3,4]> ()
          q4 = Reshape(q0, rq)
          k4 = Reshape(k0, rk)
          q = Transpose <perm=[0,2,1,3]> (q4)
          k = Transpose <perm=[0,2,1,3]> (k4)
          qa = Slice(q, i0, i2, i3)
          qb = Slice(q, i2, big, i3)
          qn = Neg(qb)
          qr = Concat <axis=-1> (qn, qa)
          k1 = Unsqueeze(k, i2)
          shk = Shape(k)
          pre = Slice(shk, i0, i2)
          post = Slice(shk, i2, i4)
          two = Constant <value_ints=[2]> ()
          ex = Concat <axis=0> (pre, two, post)
          k2 = Expand(k1, ex)
          six = Constant <value_ints=[6]> ()
          b1 = Slice(shk, i0, i1)
          rs = Concat <axis=0> (b1, six, post)
          kk = Reshape(k2, rs)
          kt = Transpose <perm=[0,1,3,2]> (kk)
          sc = MatMul(qr, kt)
          p = Softmax(sc)
          c = MatMul(p, kk)
          ct = Transpose <perm=[0,2,1,3]> (c)
          r2 = Constant <value_ints=[0,0,24]> ()
          cr = Reshape(ct, r2)
          o = MatMul(cr, wo)
          y = Add(o, x)
          hh = MatMul(y, wh)
          mm = ReduceMean <keepdims=0> (hh, i2)
          sq = Mul(hh, hh)
          mn = ReduceMax <keepdims=0> (sq)
        }""",
        wq=(24, 24),
        wk=(24, 12),
        wo=(24, 24),
        wh=(24, 7),
        i0=[0],
        i1=[1],
        i2=[2],
        i3=[3],
        i4=[4],
        big=[2**63 - 1],
    ),
    {"x": normal(2, 5, 24)},
)
"""Six heads of queries on three of keys, rotated halves, reductions over an uneven axis."""

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

BRANCHES = Case(
    build(
        """(float[b,16] x) => (float[b,16] y, float[b,16] z, float[b,16] u) {
          h = MatMul(x, w1)
          a0 = MatMul(h, w2)
          a1 = Add(a0, ba)
          a2 = Mul(scale, a1)
          g = MatMul(x, w3)
          c0 = MatMul(g, w4)
          r = Constant <value_ints=[0,16]> ()
          c1 = Reshape(c0, r)
          c2 = Sub(bc, c1)
          c3 = Add(c2, x)
          both = Sub(a2, c3)
          y = Add(both, x)
          f = MatMul(y, w5)
          z0 = MatMul(f, w6)
          z = Mul(z0, z0)
          d = MatMul(z, w7)
          u0 = MatMul(d, w8)
          tied = Add(u0, y)
          u = Relu(tied)
        }""",
        w1=(16, 60),
        w2=(60, 16),
        ba=(16,),
        scale=(16,),
        w3=(16, 52),
        w4=(52, 16),
        bc=(1, 16),
        w5=(16, 44),
        w6=(44, 16),
        w7=(16, 48),
        w8=(48, 16),
    ),
    {"x": normal(5, 16)},
)
"""Two partial sums that meet on their way, through biases and scales, and others that do not."""

APART = Case(
    build(
        """(float[b,16] x) => (float[b,16] y, float[b,16] z, float[1,16] e, float[1,16] t) {
          h = MatMul(x, w1)
          a = MatMul(h, w2)
          g = MatMul(x, w3)
          c = MatMul(g, w4)
          y = Mul(a, c)
          row = MatMul(first, w5)
          n = Add(row, x)
          d = MatMul(first, w6)
          z = Add(n, d)
          p = MatMul(first, w7)
          q = MatMul(first, w8)
          e = Add(p, q)
          t = Relu(p)
        }""",
        w1=(16, 60),
        w2=(60, 16),
        w3=(16, 52),
        w4=(52, 16),
        first=(1, 90),
        w5=(90, 16),
        w6=(90, 16),
        w7=(90, 16),
        w8=(90, 16),
    ),
    {"x": normal(5, 16)},
)
"""Partial sums that must not meet: in a product, past an addition that widens one, and where
another node reads one."""

CACHED = Case(
    build(
        """(float[b,s,24] x, float[b,6,p,4] past_kv)
          => (float[b,s,24] y, float[b,6,t,4] present_kv) {
          q0 = MatMul(x, wq)
          k0 = MatMul(x, wk)
          r = Constant <value_ints=[0,0,6,4]> ()
          q4 = Reshape(q0, r)
          k4 = Reshape(k0, r)
          q = Transpose <perm=[0,2,1,3]> (q4)
          k = Transpose <perm=[0,2,1,3]> (k4)
          present_kv = Concat <axis=2> (past_kv, k)
          kt = Transpose <perm=[0,1,3,2]> (present_kv)
          sc = MatMul(q, kt)
          p = Softmax(sc)
          c = MatMul(p, present_kv)
          ct = Transpose <perm=[0,2,1,3]> (c)
          r2 = Constant <value_ints=[0,0,24]> ()
          cr = Reshape(ct, r2)
          y = MatMul(cr, wo)
        }""",
        wq=(24, 24),
        wk=(24, 24),
        wo=(24, 24),
    ),
    {"x": normal(2, 5, 24), "past_kv": normal(2, 6, 3, 4)},
)
"""Keys, which are the values too, that are kept from run to run."""

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
