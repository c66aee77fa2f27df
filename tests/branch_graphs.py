"""Partial sums on several branches, of which some may meet before they are reduced."""

from __future__ import annotations

from case import Case, build, normal

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
