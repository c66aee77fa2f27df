"""Networks of integers of eight and sixteen bits."""

from __future__ import annotations

import numpy as np
from case import Case, build, integers, normal, numbers, scales

SMALL_INTEGERS = Case(
    build(
        """(float[b,16] x) => (float[b,9] y, float[b,9] u) {
          q1 = .QuantizeLinear(x, xs, xz)
          h = .MatMulIntegerToFloat(q1, w1, xs, s1, xz, z1, b1)
          r = Relu(h)
          q2 = .QuantizeLinear(r, xs, xz)
          y = .MatMulIntegerToFloat(q2, w2, xs, s2, xz, , b2)
          d = .DynamicQuantizeMatMul(r, w2, s2, , b2)
          z = .DequantizeLinear(w3, s3, z3)
          u = Add(d, z)
        }""",
        xs=np.float32(0.02), xz=np.uint8(128),
        w1=integers(16, 21, low=-128, high=128, dtype="i1"), s1=scales(21),
        z1=integers(21, low=-9, high=9, dtype="i1"), b1=(21,),
        w2=integers(21, 9, low=-128, high=128, dtype="i1"), s2=np.float32(0.01), b2=(9,),
        w3=integers(1, 9), s3=scales(9), z3=integers(9),
    ),
    {"x": normal(4, 16)},
)  # fmt: skip

QUANTISED_NETWORK = Case(
    build(
        """(float[b,6,8,8] x) => (float[b,7] y, float[b,9] f, float[b,18,8,8] v) {
          q = .QuantizeLinear(x, s, z)
          a = .QLinearAdd(q, s, z, other, s, z, s2, z)
          m = .QLinearMul(a, s2, z, column, s, z, s2, z)
          g = .QLinearSigmoid(m, s2, z, s3, z0)
          l = .QLinearLeakyRelu <alpha=0.2> (m, s2, z, s2, z)
          c = .QLinearConcat <axis=1> (s2, z, g, s3, z0, l, s2, z, q, s, z)
          w = .QLinearWhere(cond, c, s2, z, shift, s, z, s2, z)
          v = .DequantizeLinear(w, s2, z)
          p = .QLinearAveragePool <kernel_shape=[2,2], strides=[2,2]> (w, s2, z, s2, z)
          gap = .QLinearGlobalAveragePool(p, s2, z, s2, z)
          shape = Constant <value_ints=[-1,18]> ()
          flat = Reshape(gap, shape)
          soft = .QLinearSoftmax <axis=-1, opset=13> (flat, s2, z, s4, z0)
          f = .QGemm(soft, s4, z0, wg, sg, zg, bg)
          r = .QGemm <transB=1> (flat, s2, z, wt, sg, zg, bg, s2, z)
          rf = .DequantizeLinear(r, s2, z)
          y = MatMul(rf, wo)
        }""",
        s=np.float32(0.02), z=np.uint8(120), s2=np.float32(0.03), s3=np.float32(1 / 256),
        z0=np.uint8(0), s4=np.float32(1 / 256),
        other=integers(6, 8, 8), column=integers(6, 1, 1),
        cond=integers(18, 1, 1, high=2, dtype=bool), shift=integers(1, 1, 1),
        wt=integers(9, 18, low=-128, high=128, dtype="i1"), wo=(9, 7),
        wg=integers(18, 9, low=-128, high=128, dtype="i1"), sg=scales(9),
        zg=integers(9, low=-9, high=9, dtype="i1"),
        bg=integers(9, low=-999, high=999, dtype="i4"),
    ),
    {"x": normal(1, 6, 8, 8)},
)  # fmt: skip

SIXTEEN_BITS = Case(
    build(
        """(int16[b,12] x) => (float[b,9] y) {
          i = .MatMulInteger16(x, w1)
          f = Cast <to=1> (i)
          y = MatMul(f, w2)
        }""",
        w1=integers(12, 21, low=-20, high=20, dtype="i2"), w2=(21, 9),
    ),
    {"x": numbers(4, 12, low=-2, high=3, dtype="i2")},
)  # fmt: skip

QUANTISED_ATTENTION = Case(
    build(
        """(float[b,s,20] x, int32[b,s] mask) => (float[b,s,9] y) {
          q = .QuantizeLinear(x, xs, xz)
          h = .QAttention <num_heads=5> (q, w, bias, xs, s, mask, xz, z)
          y = MatMul(h, wo)
        }""",
        xs=np.float32(0.02), xz=np.uint8(120),
        w=integers(20, 120, low=-128, high=128, dtype="i1"), bias=(120,), s=np.float32(0.01),
        z=np.int8(3), wo=(40, 9),
    ),
    {"x": normal(2, 6, 20), "mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32)},
)  # fmt: skip
