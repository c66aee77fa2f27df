"""Graphs of which the batch passes to the outputs, and graphs of which it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphs import Case, build, normal

ONE, ZERO = np.array([1]), np.array([0])


def _case(text: str, batch: int = 5, width: int = 8, opset: int = 18, **weights: Any) -> Case:
    return Case(build(text, opset, **weights), {"x": normal(batch, width)})


PASSING = {
    "a product": _case("(float[b,8] x) => (float[b,3] y) { y = MatMul(x, w) }", w=(8, 3)),
    "a product of fixed size": _case(
        "(float[5,8] x) => (float[5,3] y) { y = MatMul(x, w) }", w=(8, 3)
    ),
    "another dim than the first": _case(
        """(float[8,b] x) => (float[3,b] y) { y = MatMul(w, x) }""", batch=8, width=5, w=(3, 8)
    ),
    "sizes of the batch in a target": _case(
        """(float[b,8] x) => (float[b,4,2] y) {
          n = Shape <start=0, end=1> (x)
          t = Concat <axis=0> (n, four, m1)
          y = Reshape(x, t)
        }""",
        four=np.array([4]),
        m1=np.array([-1]),
    ),
    "rows merged with another dim": _case(
        """(float[b,8] x) => (float[n] y) {
          r = Reshape(x, m1)
          y = Relu(r)
        }""",
        m1=np.array([-1]),
    ),
    "rows that are made alike": _case(
        """(float[b,8] x) => (float[b,8] y, float[b,2] z) {
          n = Shape <start=0, end=1> (x)
          t = Concat <axis=0> (n, one)
          e = Expand(row, t)
          a = Add(x, e)
          y = Relu(a)
          t2 = Concat <axis=0> (n, two)
          z = ConstantOfShape(t2)
        }""",
        one=np.array([8]),
        two=np.array([2]),
        row=(1, 8),
    ),
    "rows looked up by their number": _case(
        """(float[b,8] x) => (float[b,3] y) {
          shape = Shape(x)
          n = Gather <axis=0> (shape, zero)
          k = Range(zero, n, one)
          k1 = Unsqueeze(k, ax)
          k2 = Unsqueeze(k1, ax)
          many = Expand(k2, wide)
          places = Concat <axis=-1> (many, columns)
          y = GatherND(x, places)
        }""".replace("Expand(k2, wide)", "Expand(k2, wide)")
        .replace("Concat <axis=-1> (many, columns)", "Concat <axis=-1> (many, spread)")
        .replace(
            "places =",
            "target = Shape(many)\n spread = Expand(columns, target)\n places =",
        ),
        zero=np.int64(0),
        one=np.int64(1),
        ax=ONE,
        wide=np.array([1, 3, 1]),
        columns=np.array([[[7], [0], [2]]]),
    ),
    "a slice to the end": _case(
        "(float[b,8] x) => (float[b,8] y) { z = Slice(x, zero, end, zero) \n y = Neg(z) }",
        zero=ZERO,
        end=np.array([2**63 - 1]),
    ),
    "sizes that are compared and divided, and never jump": _case(
        """(float[b,8] x) => (float[b,8] y) {
          n = Shape <end=1> (x)
          is_open = Equal(n, m1)
          asked = Where(is_open, one, n)
          most = Max(asked, one)
          fourfold = Mul(most, four)
          again = Div(fourfold, four)
          none = Mod(fourfold, four)
          width = Add(none, eight)
          t = Concat <axis=0> (again, width)
          e = Expand(row, t)
          y = Add(x, e)
        }""",
        m1=np.array([-1]),
        one=np.array([1]),
        four=np.array([4]),
        eight=np.array([8]),
        row=(1, 8),
    ),
}
"""Those whose batch passes."""

HELD = {
    "a mean": (
        "(float[b,8] x) => (float[8] y) { y = ReduceMean <keepdims=0> (x, z) }",
        {"z": ZERO},
    ),
    "a softmax": ("(float[b,8] x) => (float[b,8] y) { y = Softmax <axis=0> (x) }", {}),
    "similarities of rows": (
        """(float[b,8] x) => (float[b,c] y) {
          t = Transpose <perm=[1,0]> (x)
          y = MatMul(x, t)
        }""",
        {},
    ),
    "a target of fixed size": (
        "(float[4,8] x) => (float[4,8] y) { r = Reshape(x, t) \n y = Relu(r) }",
        {"t": np.array([4, 8])},
    ),
    "a size as a number": (
        """(float[b,8] x) => (float[b,8] y) {
          s = Shape <end=1> (x)
          f = Cast <to=1> (s)
          y = Div(x, f)
        }""",
        {},
    ),
    "a size that is given out": (
        "(float[b,8] x) => (float[b,8] y, int64[1] n) { y = Relu(x) \n n = Shape <end=1> (x) }",
        {},
    ),
    "one row more": (
        """(float[b,8] x) => (float[b,8] y, float[c] z) {
          y = Relu(x)
          n = Shape <end=1> (x)
          m = Add(n, one)
          z = ConstantOfShape(m)
        }""",
        {"one": ONE},
    ),
    "a slice that ends": (
        "(float[b,8] x) => (float[c,8] y) { y = Slice(x, zero, end, zero) }",
        {"zero": ZERO, "end": np.array([1000])},
    ),
    "the first row": ("(float[b,8] x) => (float[8] y) { y = Gather(x, z) }", {"z": np.int64(0)}),
    "a dim that goes if it is 1": (
        "(float[b,8] x) => (float[?] y) { s = Squeeze(x) \n y = Relu(s) }",
        {},
    ),
    "numbers of rows as data": (
        """(float[b,8] x) => (float[b,8] y) {
          shape = Shape(x)
          n = Gather <axis=0> (shape, zero)
          k = Range(zero, n, one)
          f = Cast <to=1> (k)
          c = Unsqueeze(f, ax)
          y = Add(x, c)
        }""",
        {"zero": np.int64(0), "one": np.int64(1), "ax": ONE},
    ),
    "numbers that are drawn": (
        "(float[b,8] x) => (float[b,8] y) { r = RandomNormalLike(x) \n y = Mul(r, zero) }",
        {"zero": np.float32(0)},
    ),
    "numbers that are drawn of a fixed size": (
        """(float[b,8] x) => (float[b,8] y) {
          r = RandomNormal <shape=[1,8]> ()
          y = Add(r, x)
        }""",
        {},
    ),
    "the largest of all": (
        "(float[b,8] x) => (float[b,8] y) { m = ReduceMax(x) \n y = Div(x, m) }",
        {},
    ),
    "a weight as long as the batch": (
        "(float[4,8] x) => (float[4,8] y) { y = Add(x, w) }",
        {"w": (4, 1)},
    ),
}
"""Those whose batch does not."""

_JUMPS = {
    "the smaller of a size and 8": ("m = Min(s, k) \n f = Cast <to=1> (m) \n y = Div(x, f)", 8),
    "the smaller of a size and 1000": ("m = Min(s, k) \n y = Slice(x, zero, m, zero)", 1000),
    "the larger of a size and 4": (
        "m = Max(s, k) \n t = Concat <axis=0> (m, eight) \n y = ConstantOfShape(t)", 4
    ),
    "a size above 2": ("m = Greater(s, k) \n f = Cast <to=1> (m) \n y = Mul(x, f)", 2),
    "a size of 1": ("m = Equal(s, k) \n y = Where(m, x, zeros)", 1),
    "a size of 5": ("m = Equal(s, k) \n y = Where(m, x, zeros)", 5),
    "a size of 5 as a truth": (
        "m = Sub(s, k) \n t = Cast <to=9> (m) \n y = Where(t, x, zeros)", 5
    ),
    "what 3 leaves of a size": ("m = Mod(s, k) \n f = Cast <to=1> (m) \n y = Mul(x, f)", 3),
    "what 2 leaves of a size": ("m = Mod(s, k) \n f = Cast <to=1> (m) \n y = Mul(x, f)", 2),
    "what 400 leaves of a size": (
        "m = Mod(s, k) \n t = Concat <axis=0> (m, eight) \n y = ConstantOfShape(t)", 400
    ),
    "a size by 400": ("m = Div(s, k) \n f = Cast <to=1> (m) \n y = Mul(x, f)", 400),
    "a size as a byte": (
        "m = Mul(s, k) \n i = Cast <to=2> (m) \n f = Cast <to=1> (i) \n y = Mul(x, f)", 256
    ),
    "the size of a slice that ends": (
        "c = Slice(x, zero, k, zero) \n t = Shape(c) \n y = ConstantOfShape(t)", 1000
    ),
    "the size of every 400th row": (
        """c = Slice(x, zero, end, zero, k) \n t = Shape <end=1> (c)
        f = Cast <to=1> (t) \n y = Mul(x, f)""", 400
    ),
}  # fmt: skip

HELD |= {
    name: (
        f"(float[b,8] x) => (float[b,8] y) {{ s = Shape <end=1> (x) \n {nodes} }}",
        {"k": np.array([k]), "zero": ZERO, "eight": np.array([8]), "zeros": (1, 8)}
        | {"end": np.array([2**63 - 1])},
    )
    for name, (nodes, k) in _JUMPS.items()
}
