"""Attention as torch writes it, out of small operators."""

from __future__ import annotations

from case import Case, build, normal

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
