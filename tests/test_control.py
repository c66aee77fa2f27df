"""Control flow with communication inside, on ranks that are threads of this process.

Where all ranks are fed the same, an AllReduce by max changes nothing: the same graph with Identity
in its place runs on onnxruntime alone, and gives the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from sessions import Feeds, run
from written import model

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.runtime.execute import NodeError

Array = np.ndarray[Any, np.dtype[Any]]
SHARED = 'rankwise.AllReduce<op="max">'

GRAPHS: dict[str, tuple[str, str, Feeds]] = {
    "if": (
        "(float[n,m] x, bool c) => (float[n,m] z)",
        """
        k = Constant<value_ints=[-1, 3]>() a = Neg(x) b = Relu(x)
        y, w = If (c) <
            then_branch = t () => (float[n,m] p, float[n,m] o) {
                s = COMM(a) p = Reshape(s, k) o = Identity(a) },
            else_branch = e () => (float[n,m] q, float[n,m] r) {
                q = Mul(b, scale) r = COMM(q) }>
        v = COMM(w) u = Add(v, a) z = Sub(u, y)
        """,
        {"x": np.arange(6, dtype=np.float32).reshape(2, 3) - 2, "c": np.array(True)},
    ),
    "a loop that stacks, and grows what it carries": (
        "(float[n,m] x, int64 n) => (float[a,b] y, float[k,n,m] rows, int64[k] ids)",
        """
        y, rows, ids = Loop (n, , x) <body = b (int64 i, bool go, float[n,m] v) => (
            bool go_on, float[a,m] longer, float[n,m] s, int64 j) {
            j = Mul(i, two) go_on = Identity(go) s = COMM(x) longer = Concat<axis=0>(v, s) }>
        """,
        {"x": np.ones((2, 3), np.float32), "n": np.array(3)},
    ),
    "a loop that stops early": (
        "(float[n] x, bool c) => (float[n] y, float[k,n] rows)",
        """
        y, rows = Loop (many, c, x) <body = b (int64 i, bool go, float[n] v) => (
            bool go_on, float[n] s, float[n] s) {
            t = Add(v, x) s = COMM(t) sum = ReduceSum<keepdims=0>(s) go_on = Less(sum, limit) }>
        """,
        {"x": np.ones(4, np.float32), "c": np.array(True)},
    ),
    "a loop that never begins": (
        "(float[n] x, bool c) => (float[n] y, float[k,n] rows)",
        """
        y, rows = Loop (many, c, x) <body = b (int64 i, bool go, float[4] v) => (
            bool go_on, float[4] s, float[4] s) { s = COMM(v) go_on = Identity(go) }>
        """,
        {"x": np.ones(4, np.float32), "c": np.array(False)},
    ),
    "a loop without trips": (
        "(float[n] x, int64 n) => (float[n] y)",
        """
        y = Loop (n, , x) <body = b (int64 i, bool go, float[n] v) => (
            bool go_on, float[n] s) { s = COMM(v) go_on = Identity(go) }>
        """,
        {"x": np.ones(4, np.float32), "n": np.array(0)},
    ),
    "a scan forwards and backwards": (
        "(float[n] x, float[k,n] f, float[n,k] g)"
        "=> (float[n] y, float[n,k] rows, float[k,n] last)",
        """
        y, rows, last = Scan <num_scan_inputs = 2, scan_input_axes = [0, -1],
            scan_input_directions = [0, 1], scan_output_axes = [1, 0],
            scan_output_directions = [0, 1],
            body = b (float[n] v, float[n] e, float[n] h) => (float[n] w, float[n] d, float[n] o) {
            d = Sub(e, h) s = COMM(d) w = Add(s, v) o = Identity(w) }> (x, f, g)
        """,
        {
            "x": np.arange(3, dtype=np.float32),
            "f": np.arange(12, dtype=np.float32).reshape(4, 3) ** 2,
            "g": np.arange(12, dtype=np.float32).reshape(3, 4),
        },
    ),
    "bodies within bodies": (
        "(float[n] x, int64 n) => (float[n] y, float[k,j] sums)",
        """
        half = Mul(x, scale)
        y, sums = Loop (n, , x) <body = outer (int64 i, bool go, float[n] v) => (
            bool go_on, float[n] w, float[j] sum) {
            go_on = Identity(go)
            odd = Mod(i, two) is_odd = Cast<to=9>(odd)
            w = If (is_odd) <
                then_branch = t () => (float[n] p) { s = COMM(v) p = Add(s, half) },
                else_branch = e () => (float[n] q) {
                    q = Loop (two, , v) <body = inner (int64 j, bool on, float[n] u) => (
                        bool on2, float[n] r) {
                        on2 = Identity(on) f = Cast<to=1>(i) t1 = Add(u, f) t2 = Add(t1, half)
                        r = COMM(t2) }>
                }>
            sum = ReduceSum(w) }>
        """,
        {"x": np.arange(3, dtype=np.float32), "n": np.array(4)},
    ),
    "a sequence that is carried": (
        "(float[n] x, int64 n) => (float[m] y)",
        """
        empty = SequenceEmpty<dtype=1>()
        all = Loop (n, , empty) <body = b (int64 i, bool go, seq(float[n]) v) => (
            bool go_on, seq(float[n]) w) {
            go_on = Identity(go) f = Cast<to=1>(i) t = Add(x, f) s = COMM(t)
            w = SequenceInsert(v, s) }>
        y = ConcatFromSequence<axis=0>(all)
        """,
        {"x": np.arange(3, dtype=np.float32), "n": np.array(3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_bodies_that_communicate_give_what_onnxruntime_gives(name: str, size: int) -> None:
    ends, body, feeds = GRAPHS[name]
    plain = model(ends, body.replace("COMM", "Identity")).SerializeToString()
    expected = onnxruntime.InferenceSession(plain).run(None, dict(feeds))
    for outputs in run(size, model(ends, body.replace("COMM", SHARED)), feeds):
        for got, wanted in zip(outputs, expected, strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)


def test_the_branch_that_is_not_taken_runs_too() -> None:
    ends, body, feeds = GRAPHS["if"]
    feeds = {**feeds, "c": np.array(False)}
    plain = model(ends, body.replace("COMM", "Identity")).SerializeToString()
    expected = onnxruntime.InferenceSession(plain).run(None, feeds)
    for outputs in run(2, model(ends, body.replace("COMM", SHARED)), feeds):
        np.testing.assert_array_equal(outputs[0], expected[0])


def test_what_a_branch_hands_on_is_not_overwritten_through_its_other_name() -> None:
    body = """
        a = Neg(x)
        b = If (c) <then_branch = t () => (float[n] a) { t1 = rankwise.Barrier() },
                    else_branch = e () => (float[n] q) { q = rankwise.AllReduce(x) }>
        s = rankwise.AllReduce(b) y = Sub(s, a)
    """
    made = model("(float[n] x, bool c) => (float[n] y)", body)
    x = np.ones(3, np.float32)
    for (y,) in run(2, made, {"x": x, "c": np.array(True)}):
        np.testing.assert_array_equal(y, -x)


def test_a_loop_sums_over_ranks_in_every_iteration() -> None:
    body = """
        y = Loop (two, , x) <body = b (int64 i, bool go, float[n] v) => (bool go_on, float[n] s) {
            go_on = Identity(go) s = rankwise.AllReduce(v) }>
    """
    made = model("(float[n] x) => (float[n] y)", body)
    given = [np.arange(4, dtype=np.float32) + rank for rank in range(3)]
    for (y,) in run(3, made, lambda rank: {"x": given[rank]}):
        np.testing.assert_array_equal(y, 3 * sum(given))
    np.testing.assert_array_equal(given[2], np.arange(4) + 2)


def test_a_state_that_was_an_element_is_the_callers_own() -> None:
    body = """
        last, rows = Scan <num_scan_inputs = 1, body = b (float[n] v, float[n] e) => (
            float[n] e, float[n] s) { s = rankwise.AllReduce(v) }> (start, x)
    """
    made = model("(float[n] start, float[k,n] x) => (float[n] last, float[k,n] rows)", body)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    last, rows = run(1, made, {"start": x[0], "x": x})[0]
    np.testing.assert_array_equal(last, x[2])
    np.testing.assert_array_equal(rows, x[[0, 0, 1]])
    assert not np.shares_memory(last, x)


def test_an_error_names_the_way_to_its_node() -> None:
    body = """
        y = Loop (two, , x) <body = b (int64 i, bool go, float[n] v) => (bool go_on, float[n] s) {
            go_on = Identity(go)
            s = If (go) <
                then_branch = t () => (float[n] p) { p = Neg(v) sent = rankwise.Send(p, k) },
                else_branch = e () => (float[n] q) { q = Identity(v) }> }>
    """
    made = model("(float[n] x, int64 k) => (float[n] y)", body)
    with pytest.raises(NodeError, match=r"rank \d, Loop 'y' > If 's' > Send 'sent' on float32"):
        run(2, made, {"x": np.ones(3, np.float32), "k": np.array(7)})


def test_weights_of_bodies_may_lie_in_external_files(tmp_path: Path) -> None:
    body = """
        y = Loop (two, , x) <body = b (int64 i, bool go, float[n] v) => (bool go_on, float[n] w) {
            go_on = Identity(go) s = rankwise.AllReduce(v) t = Mul(s, large) u = Mul(t, within)
            w = rankwise.AllReduce<op="max">(u) }>
    """
    made = model("(float[n] x) => (float[n] y)", body)
    large = np.linspace(0, 1, 1000, dtype=np.float32)
    made.graph.initializer.append(numpy_helper.from_array(large, "large"))
    inner = made.graph.node[0].attribute[0].g
    inner.initializer.append(numpy_helper.from_array(large + 1, "within"))
    onnx.save(
        made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64
    )
    kept = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    within = kept.graph.node[0].attribute[0].g.initializer[0]
    assert within.data_location == onnx.TensorProto.EXTERNAL
    x = np.ones(1000, np.float32)

    def on_rank(comm: Communicator) -> Array:
        with rankwise.InferenceSession(tmp_path / "m.onnx", comm=comm) as session:
            return session.run(None, {"x": x})[0]

    factor = 2 * large * (large + 1)
    for y in local.run(2, on_rank):
        np.testing.assert_allclose(y, factor * factor, rtol=1e-6)
