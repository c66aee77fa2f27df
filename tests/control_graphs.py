"""Graphs whose weights are in bodies of If, Loop and Scan, and what to feed them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from case import build, integers, normal


class Runs(NamedTuple):
    model: onnx.ModelProto
    feeds: tuple[dict[str, Any], ...]
    """of one run after the other"""


TRUE, FALSE = np.array(True), np.array(False)

BRANCHES = Runs(
    build(
        """(float[b,16] x, bool c) => (float[b,9] y) {
          g = MatMul(x, w0)
          y = If (c) <then_branch = one () => (float[b,9] p) {
              h = MatMul(g, w1)
              h1 = Add(h, b1)
              h2 = Relu(h1)
              p = MatMul(h2, w2)
            }, else_branch = other () => (float[b,9] q) {
              h = MatMul(g, v1)
              h1 = Tanh(h)
              h2 = MatMul(h1, v2)
              q = Add(h2, b2)
            }>
        }""",
        w0=(16, 14), w1=(14, 22), b1=(22,), w2=(22, 9), v1=(14, 11), v2=(11, 9), b2=(9,),
    ),
    ({"x": normal(3, 16), "c": TRUE}, {"x": normal(2, 16), "c": FALSE}),
)  # fmt: skip
"""A column and a row of each branch are of one width; x goes into both as ranks have it."""

HIDDEN = Runs(
    build(
        """(float[b,16] x, bool c) => (float[b,9] y, float[b,22] kept) {
          kept, h2 = If (c) <then_branch = one () => (float[b,22] p, float[b,22] r) {
              h = MatMul(x, w1)
              p = Add(h, b1)
              r = Relu(p)
            }, else_branch = other () => (float[b,22] q, float[b,22] s) {
              q = MatMul(x, v1)
              s = Neg(q)
            }>
          y = MatMul(h2, w2)
        }""",
        w1=(16, 22), b1=(22,), w2=(22, 9), v1=(16, 22),
    ),
    ({"x": normal(3, 16), "c": TRUE}, {"x": normal(2, 16), "c": FALSE}),
)  # fmt: skip
"""What branches give stays cut; it is gathered where it is an output."""

LAYERS = Runs(
    build(
        """(float[b,12] x) => (float[b,12] y, float[n,b,12] rows) {
          n = Constant <value_int=4> ()
          y, rows = Loop (n, , x) <body = layer (int64 i, bool go, float[b,12] h)
              => (bool on, float[b,12] r, float[b,12] row) {
            on = Identity(go)
            up = Gather(w1, i)
            down = Gather(w2, i)
            u = MatMul(h, up)
            v = Relu(u)
            d = MatMul(v, down)
            r = Add(h, d)
            row = Tanh(r)
          }>
        }""",
        w1=(4, 12, 22), w2=(4, 22, 12),
    ),
    ({"x": normal(3, 12)}, {"x": normal(2, 12)}),
)  # fmt: skip
"""A Loop over layers, whose weights lie in one tensor, and one whose state is whole."""

STATES = Runs(
    build(
        """(float[b,16] x, int64 n) => (float[b,9] y, float[m,b,22] rows) {
          h0 = MatMul(x, w0)
          last, rows = Loop (n, , h0) <body = step (int64 i, bool go, float[b,22] h)
              => (bool on, float[b,22] r, float[b,22] row)
              <float[1] half = {0.5}> {
            on = Constant <value = bool {1}> ()
            u = Mul(h, scale)
            v = Mul(u, half)
            r = Add(v, h0)
            row = Sin(r)
          }>
          y = MatMul(last, w2)
        }""",
        w0=(16, 22), scale=(22,), w2=(22, 9),
    ),
    ({"x": normal(3, 16), "n": np.array(3)}, {"x": normal(2, 16), "n": np.array(1)}),
)  # fmt: skip
"""A state that is cut while it is carried, and what is collected of it."""

SCANNED = Runs(
    build(
        """(float[s,b,16] x, float[b,22] h0) => (float[b,22] last, float[b,s,9] y) {
          g = MatMul(x, w)
          last, y = Scan (h0, g) <num_scan_inputs = 1, scan_output_axes = [1],
              body = step (float[b,22] h, float[b,22] e) => (float[b,22] r, float[b,9] o) {
            u = MatMul(h, wh)
            v = Add(u, e)
            r = Tanh(v)
            o = MatMul(r, wo)
          }>
        }""",
        w=(16, 22), wh=(22, 22), wo=(22, 9),
    ),
    (
        {"x": normal(5, 3, 16), "h0": normal(3, 22)},
        {"x": normal(4, 2, 16), "h0": normal(2, 22)},
    ),
)  # fmt: skip
"""A recurrence: its state is multiplied by a matrix in each step."""

GROWING = Runs(
    build(
        """(float[b,1,12] x, int64 n) => (float[b,s,12] y) {
          y = Loop (n, , x) <body = step (int64 i, bool go, float[b,s,12] h)
              => (bool on, float[b,t,12] r) {
            on = Identity(go)
            u = MatMul(h, w1)
            v = Relu(u)
            d = MatMul(v, w2)
            r = Concat <axis=1> (h, d)
          }>
        }""",
        w1=(12, 22), w2=(22, 12),
    ),
    ({"x": normal(3, 1, 12), "n": np.array(3)}, {"x": normal(2, 1, 12), "n": np.array(0)}),
)  # fmt: skip
"""A state that is longer after each step."""

NESTED = Runs(
    build(
        """(float[b,12] x, int64 n) => (float[b,12] y) {
          zero = Constant <value_int=0> ()
          two = Constant <value_int=2> ()
          y = Loop (n, , x) <body = step (int64 i, bool go, float[b,12] h)
              => (bool on, float[b,12] r) {
            on = Identity(go)
            rest = Mod(i, two)
            even = Equal(rest, zero)
            r = If (even) <then_branch = one () => (float[b,12] p) {
                u = MatMul(h, w1)
                v = Relu(u)
                p = MatMul(v, w2)
              }, else_branch = other () => (float[b,12] q) {
                u = MatMul(h, w3)
                q = Sin(u)
              }>
          }>
        }""",
        w1=(12, 22), w2=(22, 12), w3=(12, 12),
    ),
    ({"x": normal(3, 12), "n": np.array(3)}, {"x": normal(2, 12), "n": np.array(2)}),
)  # fmt: skip
"""Bodies within a body, with names that both of them give."""

QUANTISED = Runs(
    build(
        """(float[b,16] x, bool c) => (float[b,22] y) {
          y = If (c) <then_branch = one () => (float[b,22] p) {
              q, scale, zero = DynamicQuantizeLinear(x)
              s = MatMulInteger(q, w, zero)
              f = Cast <to=1> (s)
              p = Mul(f, scale)
            }, else_branch = other () => (float[b,22] p) {
              q, scale, zero = DynamicQuantizeLinear(x)
              s = MatMulInteger(q, v, zero)
              f = Cast <to=1> (s)
              p = Mul(f, scale)
            }>
        }""",
        w=integers(16, 22), v=integers(16, 22),
    ),
    ({"x": normal(3, 16), "c": TRUE}, {"x": normal(2, 16), "c": FALSE}),
)  # fmt: skip
"""An operator in a body that is written out as a function."""


GENERATING = Runs(
    build(
        """(int64[b,1] first, float[b,1,22] h0, bool wanted) =>
           (int64[b,1] last, int64[n,b,1] tokens, float[n] m) {
          few = Constant <value_int=12> ()
          last, state, tokens, m = Loop (few, wanted, first, h0) <body = step
              (int64 i, bool go, int64[b,1] token, float[b,1,22] before)
              => (bool on, int64[b,1] next, float[b,1,22] state, int64[b,1] row, float most) {
            e = Gather(table, token)
            u = MatMul(e, w1)
            v = MatMul(before, w3)
            a = Add(u, v)
            state = Tanh(a)
            h = MatMul(state, w2)
            logits = MatMul(h, head)
            next = ArgMax <axis=2, keepdims=0> (logits)
            row = Identity(token)
            most = ReduceMax <keepdims=0> (h)
            on = Less(most, limit)
          }>
        }""",
        table=(50, 16), w1=(16, 22), w2=(22, 16), w3=(22, 22), head=(16, 50),
        limit=np.float32(2.95),
    ),
    tuple(
        {"first": np.arange(n).reshape(n, 1) * 11 + 3, "wanted": wanted, "h0": normal(n, 1, 22)}
        for n, wanted in ((3, TRUE), (2, TRUE), (2, FALSE))
    ),
)  # fmt: skip
"""Tokens one after the other, until a value is too large: the condition is computed on ranks."""


def _layer(n: int, has_past: bool) -> str:
    """Attention over six heads and a cache, and an MLP."""
    k, v = (
        f"Concat <axis=2> (past_{n}_{name}, {name}h{n})" if has_past else f"Identity({name}h{n})"
        for name in "kv"
    )
    heads = "".join(
        f"""
          {name}{n} = MatMul(h{n}, w{name}{n})
          {name}s{n} = Reshape({name}{n}, split)
          {name}h{n} = Transpose <perm=[0,2,1,3]> ({name}s{n})"""
        for name in "qkv"
    )
    return f"""{heads}
          k_{n} = {k}
          v_{n} = {v}
          kt{n} = Transpose <perm=[0,1,3,2]> (k_{n})
          scores{n} = MatMul(qh{n}, kt{n})
          weights{n} = Softmax <axis=3> (scores{n})
          mixed{n} = MatMul(weights{n}, v_{n})
          joined{n} = Transpose <perm=[0,2,1,3]> (mixed{n})
          flat{n} = Reshape(joined{n}, merge)
          o{n} = MatMul(flat{n}, wo{n})
          a{n} = Add(h{n}, o{n})
          u{n} = MatMul(a{n}, up{n})
          g{n} = Tanh(u{n})
          d{n} = MatMul(g{n}, down{n})
          h{n + 1} = Add(a{n}, d{n})"""


def _branch(name: str, has_past: bool) -> str:
    caches = ", ".join(f"float[b,6,t,4] {kind}_{n}" for n in (0, 1) for kind in "kv")
    return f"""{name} () => (float[b,s,50] logits, {caches}) {{
          h0 = Gather(table, ids) {_layer(0, has_past)} {_layer(1, has_past)}
          logits = MatMul(h2, head)
        }}"""


def _merged() -> onnx.ModelProto:
    names = [f"{n}_{kind}" for n in (0, 1) for kind in "kv"]
    past = ", ".join(f"float[b,6,p,4] past_{name}" for name in names)
    present = ", ".join(f"float[b,6,t,4] present_{name}" for name in names)
    layer = {"wq": (16, 24), "wk": (16, 24), "wv": (16, 24), "wo": (24, 16), "up": (16, 34)}
    layer["down"] = (34, 16)
    return build(
        f"""(int64[b,s] ids, bool use_cache, {past}) => (float[b,s,50] y, {present}) {{
          y, {", ".join(f"present_{name}" for name in names)} = If (use_cache) <
            then_branch = {_branch("grow", True)}, else_branch = {_branch("begin", False)}>
        }}""",
        table=(50, 16), head=(16, 50), split=[0, 0, 6, 4], merge=[0, 0, 24],
        **{f"{name}{n}": shape for n in (0, 1) for name, shape in layer.items()},
    )  # fmt: skip


MERGED = Runs(
    _merged(),
    tuple(
        {"ids": np.arange(2 * length).reshape(2, length) * 7 % 50, "use_cache": np.array(past > 0)}
        | {f"past_{n}_{kind}": normal(2, 6, past, 4) for n in (0, 1) for kind in "kv"}
        for length, past in ((5, 0), (1, 5), (2, 3))
    ),
)
"""A decoder as optimum merges it: one If around all of it, with a cache or without."""


NEVER_TAKEN = Runs(
    build(
        """(float[b,16] x, bool c) => (float[b,5] y, float[b,9] z) {
          g = MatMul(x, w0)
          y = If (c) <then_branch = one () => (float[b,5] p) {
              a, d, e, f = Split <axis=1, num_outputs=4> (g)
              p = Concat <axis=1> (a, d, e, f)
            }, else_branch = other () => (float[b,5] q) {
              a, d = Split <axis=1, num_outputs=2> (g)
              q = Concat <axis=1> (d, a)
            }>
          u = Tanh(g)
          z = MatMul(u, w1)
        }""",
        w0=(16, 5), w1=(5, 9),
    ),
    ({"x": normal(3, 16), "c": FALSE},),
)  # fmt: skip
"""A branch that could not run: five rows in four parts of two."""


CASES = {
    "branches": BRANCHES,
    "generating": GENERATING,
    "growing": GROWING,
    "hidden": HIDDEN,
    "layers": LAYERS,
    "merged": MERGED,
    "nested": NESTED,
    "never_taken": NEVER_TAKEN,
    "quantised": QUANTISED,
    "scanned": SCANNED,
    "states": STATES,
}
