"""What is wrong with small programs, each beside the one in which it is mended."""

import re

import numpy as np
import pytest
from onnx import numpy_helper
from programs import checked, model, models

from rankwise.models.check import check, slim
from rankwise.models.errors import ModelError
from rankwise.models.plan import Communicate, build_plan

TO_1 = "one = Constant<value_int=1>() t = R.Send(x, one)"
FROM_0 = "zero = Constant<value_int=0>() y = R.Recv<FLOAT>(zero)"
TAG_2 = "zero = Constant<value_int=0>() y = R.Recv<FLOAT, tag=2>(zero)"
IN_OTHER_GROUP = "one = Constant<value_int=1>() y = R.Recv<FLOAT, groups=[1, 0]>(one)"
NEXT = """
    one = Constant<value_int=1>() r = R.Rank() n = R.Size() s = Add(r, one) next = Mod(s, n)
    m = Add(r, n) p = Sub(m, one) last = Mod(p, n)
"""
FLAG = "i = Constant<value_int=0>() e = Gather(x, i) f = Constant<value_float=0.5>() "
ONE_WAY = """
    y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                else_branch = e () => (b) { b = Neg(x) }>
"""


CASES = {
    "a Send without its Recv": (
        [f"{TO_1} y = Neg(x)", "y = Neg(x)"],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "unmatched",
        "rank 0, Send 't': expected a Recv of rank 1 with tag 0, but that rank ends without one",
    ),
    "a Recv without its Send": (
        ["y = Neg(x)", FROM_0],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "unmatched",
        "rank 1, Recv 'y': expected a Send of rank 0 with tag 0, but that rank ends without one",
    ),
    "a collective that a rank is absent from": (
        ["y = R.AllReduce(x)", "y = Neg(x)"],
        ["y = R.AllReduce(x)", "y = R.AllReduce(x)"],
        "unmatched",
        "rank 0, AllReduce 'y': expected rank 1 to call it too, but that rank ends",
    ),
    "another tag": (
        [f"{TO_1} y = Neg(x)", TAG_2],
        [f"{TO_1} y = Neg(x)".replace("Send(", "Send<tag=2>("), TAG_2],
        "mismatch",
        "rank 1, Recv 'y': expected tag 2, but Send 't' of rank 0 has 0",
    ),
    "another type": (
        [f"{TO_1} y = Neg(x)", FROM_0.replace("FLOAT", "dtype=11")],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "mismatch",
        "Recv 'y': expected float64 of any shape, but Send 't' of rank 0 gives float32 [4]",
    ),
    "another shape": (
        [f"{TO_1} y = Neg(x)", FROM_0.replace("FLOAT", "FLOAT, shape=[2, 2]")],
        [f"{TO_1} y = Neg(x)", FROM_0.replace("FLOAT", "FLOAT, shape=[4]")],
        "mismatch",
        "rank 1, Recv 'y': expected float32 [2, 2], but Send 't' of rank 0 gives float32 [4]",
    ),
    "a rank that is none": (
        NEXT + "t = R.Send(x, s) y = R.Recv<FLOAT>(last)",
        NEXT + "t = R.Send(x, next) y = R.Recv<FLOAT>(last)",
        "mismatch",
        "rank 1, Send 't': expected dest to be a rank below 2, got 2",
    ),
    "operands of another type": (
        ["y = R.AllReduce(x)", "h = Cast<to=11>(x) y = R.AllReduce(h)"],
        ["y = R.AllReduce(x)", "h = Cast<to=1>(x) y = R.AllReduce(h)"],
        "mismatch",
        "AllReduce 'y': expected dtype float32, as in AllReduce 'y' of rank 0, got float64",
    ),
    "operands of another shape": (
        ["y = R.AllReduce(x)", "h = Concat<axis=0>(x, x) y = R.AllReduce(h)"],
        ["y = R.AllGather(x)", "h = Concat<axis=0>(x, x) y = R.AllGather(h)"],
        "mismatch",
        "rank 1, AllReduce 'y': expected shape [4], as in AllReduce 'y' of rank 0, got [8]",
    ),
    "another reduction": (
        ["y = R.AllReduce(x)", 'y = R.AllReduce<op="max">(x)'],
        ["y = R.AllReduce(x)", 'y = R.AllReduce<op="sum">(x)'],
        "mismatch",
        "rank 1, AllReduce 'y': expected op 'sum', as in AllReduce 'y' of rank 0, got 'max'",
    ),
    "another root": (
        ["y = R.Broadcast(x)", "y = R.Broadcast<root=1>(x)"],
        ["y = R.Broadcast<root=1>(x)", "y = R.Broadcast<root=1>(x)"],
        "mismatch",
        "rank 1, Broadcast 'y': expected root 0, as in Broadcast 'y' of rank 0, got 1",
    ),
    "another operator": (
        ["y = R.AllReduce(x)", "z = R.AllGather(x) y = Neg(z)"],
        ["y = R.AllGather(x)", "z = R.AllGather(x) y = Neg(z)"],
        "mismatch",
        "rank 1, AllGather 'z': expected op AllReduce, as in AllReduce 'y' of rank 0",
    ),
    "another group": (
        ["y = R.AllReduce<groups=[0, 1]>(x)", *["y = R.AllReduce(x)"] * 2],
        ["y = R.AllReduce(x)"] * 3,
        "mismatch",
        "rank 0, AllReduce 'y': expected group [0, 1], but AllReduce 'y' of rank 1 has [0, 1, 2]",
    ),
    "messages of another group": (
        [f"{TO_1} y = Neg(x)", IN_OTHER_GROUP],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "mismatch",
        "rank 1, Recv 'y': expected group [1, 0], but Send 't' of rank 0 has [0, 1]",
    ),
    "another order, of the same kind": (
        ["a = R.AllReduce(x) z = Neg(x) b = R.AllReduce(z) y = Add(a, b)",
         "z = Neg(x) b = R.AllReduce(z) a = R.AllReduce(x) y = Add(a, b)"],
        ["a = R.AllReduce(x) z = Neg(x) b = R.AllReduce(z) y = Add(a, b)",
         "z = Neg(x) a = R.AllReduce(x) b = R.AllReduce(z) y = Add(a, b)"],
        "order",
        "rank 1, AllReduce 'b': expected AllReduce 'a', as rank 0 calls it here",
    ),
    "another order, over two groups": (
        ["a = R.AllReduce<groups=[0, 1]>(x) y = R.AllReduce<groups=[1, 0]>(a)",
         "a = R.AllReduce<groups=[1, 0]>(x) y = R.AllReduce<groups=[0, 1]>(a)"],
        ["a = R.AllReduce<groups=[0, 1]>(x) y = R.AllReduce<groups=[1, 0]>(a)"] * 2,
        "mismatch",
        "expected group [0, 1], but AllReduce 'a' of rank 1 has [1, 0]",
    ),
    "a deadlock of receivers": (
        NEXT + "y = R.Recv<FLOAT>(last) t = R.Send(x, next)",
        NEXT + "t = R.Send(x, next) y = R.Recv<FLOAT>(last)",
        "deadlock",
        "deadlock: Recv 'y' of rank 0 waits for rank 1, Recv 'y' of rank 1 waits for rank 0",
    ),
    "a deadlock of a receiver and a collective": (
        [f"a = R.AllReduce(x) {TO_1} y = Neg(a)", f"{FROM_0} z = R.AllReduce(x)"],
        [f"{TO_1} y = R.AllReduce(x)", f"{FROM_0} z = R.AllReduce(x)"],
        "deadlock",
        "deadlock: AllReduce 'a' of rank 0 waits for rank 1, Recv 'y' of rank 1 waits for rank 0",
    ),
    "a branch that one rank takes": (
        NEXT + "c = Equal(r, one)" + ONE_WAY,
        NEXT + "c = Equal(n, one)" + ONE_WAY,
        "unmatched",
        "rank 1, AllReduce 'a': expected rank 0 to call it too, but that rank ends",
    ),
    "a branch that one rank may take alone": (
        FLAG + "c = Greater(e, f)" + ONE_WAY,
        FLAG + "g = R.Broadcast(e) c = Greater(g, f)" + ONE_WAY,
        "branch",
        "rank 0, If 'y': expected a condition that is the same on rank 1, since it decides on "
        "AllReduce 'a'; Broadcast it first",
    ),
    "ranks that negate what others decide on": (
        [FLAG + "g = R.Broadcast(e) c = Greater(g, f)" + ONE_WAY,
         FLAG + "g = R.Broadcast(e) d = Greater(g, f) c = Not(d)" + ONE_WAY],
        [FLAG + "g = R.Broadcast(e) c = Greater(g, f)" + ONE_WAY,
         FLAG + "g = R.Broadcast(e) d = Greater(g, f) h = Not(d) c = Not(h)" + ONE_WAY],
        "unmatched",
        "expected rank 1 to call it too",
    ),
    "a loop that ends earlier on one rank": (
        NEXT + "c = Constant<value = bool {1}>() k = Add(r, one)"
        "y = Loop (k, c, x) <body = b (i, d, v) => (e, w) { e = Identity(d) w = R.AllReduce(v) }>",
        NEXT + "c = Constant<value = bool {1}>() k = Add(n, one)"
        "y = Loop (k, c, x) <body = b (i, d, v) => (e, w) { e = Identity(d) w = R.AllReduce(v) }>",
        "unmatched",
        "rank 1, AllReduce 'w': expected rank 0 to call it too",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_found_and_its_mended_twin_is_clean(name: str) -> None:
    wrong, mended, kind, text = CASES[name]
    found = checked(wrong)
    assert any(text in str(finding) and finding.kind == kind for finding in found.findings), found
    assert not checked(mended).findings


RING = (
    NEXT
    + """
    c = Constant<value = bool {1}>()
    z, y = Loop (n, c, x, x) <body = b (i, d, v, q) => (e, w, u) {
        e = Identity(d) t = R.Send(v, next) w = R.Recv<FLOAT>(last) u = Add(q, w)
    }>
"""
)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_a_ring_is_clean_but_would_hang_if_sends_blocked(ranks: int) -> None:
    assert str(checked(RING, ranks)) == f"ok: {2 * ranks**2} communications of {ranks} ranks fit"
    (found,) = checked(RING, ranks, rendezvous=True).findings
    waits = [f"Send 't' of rank {r} waits for rank {(r + 1) % ranks}" for r in range(ranks)]
    assert found.text == f"deadlock: {', '.join(waits)}"


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_a_ring_that_one_rank_begins_with_a_receive_does_not_hang(ranks: int) -> None:
    body = (
        NEXT
        + """
        zero = Constant<value_int=0>() c = Equal(r, zero)
        y = If (c) <then_branch = t () => (a) { a = R.Recv<FLOAT>(last) s1 = R.Send(x, next) },
                    else_branch = e () => (b) { s2 = R.Send(x, next) b = R.Recv<FLOAT>(last) }>
    """
    )
    assert not checked(body, ranks, rendezvous=True).findings


def test_shapes_that_only_a_run_knows_are_left_to_it() -> None:
    ends = "(float[n, m] x) => (y)"
    verdict = checked(["y = R.AllReduce(x)", "h = Transpose(x) y = R.AllReduce(h)"], ends=ends)
    assert str(verdict).endswith("2 of them have shapes or peers that only a run knows")
    found = checked(["y = R.AllReduce(x)", "h = Flatten<axis=0>(x) y = R.AllReduce(h)"], ends=ends)
    assert found.findings == ()


def test_a_peer_that_only_a_run_knows_excuses_who_waits_for_it() -> None:
    ends = "(float[4] x, int64 to) => (y)"
    bodies = ["t = R.Send(x, to) y = Neg(x)", FROM_0, FROM_0]
    verdict = checked(bodies, ends=ends)
    assert (verdict.findings, verdict.open) == ((), 1)


def test_values_are_followed_through_messages_shapes_and_branches() -> None:
    body = (
        NEXT
        + """
        h = Concat<axis=0>(x, x) all = R.AllGather(h) count = Size(all)
        eight = Constant<value_int=8>() peers = Div(count, eight) told = R.Broadcast(r)
        even = Equal(told, peers) k = Constant<value_int=3>() t = R.Send(r, next)
        came = R.Recv<dtype=7>(last) back = R.Send(x, came) y = R.Recv<FLOAT>(next)
    """
    )
    assert str(checked(body, 3)) == "ok: 18 communications of 3 ranks fit"


def test_a_scan_is_followed_element_by_element() -> None:
    body = """y = Scan <num_scan_inputs = 1, body = b (e) => (s) { s = R.AllReduce(e) }> (x)"""
    assert checked(body).communications == 8
    other = body.replace("R.AllReduce(e)", 'R.AllReduce<op="max">(e)')
    assert "expected op 'sum'" in str(checked([body, other]))


def test_loops_that_are_too_long_are_not_looked_at_to_the_end() -> None:
    body = """
        n = Constant<value_int=1000000000>() c = Constant<value = bool {1}>()
        y = Loop (n, c, x) <body = b (i, d, v) => (e, w) { e = Identity(d) w = R.AllReduce(v) }>
    """
    plans = [build_plan(one) for one in models(body)]
    verdict = check(plans, steps=1000)
    assert not verdict.is_complete and str(verdict).endswith("longer than was looked at")


def test_a_plan_that_reads_what_is_not_there_yet_is_found() -> None:
    plan = build_plan(model("a = R.AllReduce(x) b = Neg(a) y = R.AllGather(b)"))
    late = type(plan)(
        plan.model, plan.inputs, plan.outputs, plan.constants,
        (*plan.instructions[1:], plan.instructions[0]),
    )  # fmt: skip
    (found,) = (f for f in check([plan, late]).findings if f.kind == "unready")
    assert str(found) == "rank 1, Neg 'b': reads 'a', which nothing before it gives"
    assert isinstance(late.instructions[-1], Communicate)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = R.Broadcast<root=2>(x)", "expected root to be a rank below 2, got 2"),
        ("y = R.Broadcast<dtype=1>()", "expected an operand, since this rank is root, got none"),
        ("y = R.AllGather<dim=1>(x)", "expected dim from -1 to 0, got 1"),
        ('y = R.AllReduce<op="xor">(x)', "expected an op of sum, prod, .* got 'xor'"),
        ('y = R.AllReduce<op="band">(x)', "op 'band' is not defined for dtype float32"),
        ('y = R.AllReduce<algorithm="fast">(x)', "expected an algorithm of allreduce"),
        (
            f"{TO_1} zero = Constant<value_int=0>() y = R.Recv(zero)",
            "expected the attribute dtype",
        ),
        (TO_1.replace("Send(", "Send<tag=-1>(") + " y = Neg(x)", "expected a tag of at least 0"),
    ],
)
def test_a_call_that_is_wrong_by_itself_is_found(body: str, message: str) -> None:
    assert re.search(message, str(checked(body)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("q = Neg(x) y = R.AllReduce(x, q)", "expected a token, a bool scalar .* got 'q'"),
        ("y = R.AllReduce<groups=[0]>(x)", "AllReduce 'y': rank 1 is in none of the groups"),
        ('y = R.AllReduce<axis_name="tp">(x)', "expected axis_name to be an axis of a mesh"),
        ("y = R.AllReduce<groups=[0, 1], group_size=3>(x)", "expected groups of group_size ranks"),
    ],
)  # fmt: skip
def test_what_is_no_program_is_an_error(body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        checked(body)


def test_a_slim_plan_keeps_what_the_proof_needs_and_no_more() -> None:
    body = "h = Reshape(x, shape) g = Add(h, w) y = R.AllReduce(g)"
    made = model(body)
    for name, array in [("shape", np.array([2, 2])), ("w", np.zeros((500, 2, 2), np.float32))]:
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    plan = build_plan(made)
    small = slim(plan, None)
    assert small.model.ByteSize() < 300 < 8000 < plan.model.ByteSize()
    other = model("y = R.AllReduce(x)")
    assert str(check([small, build_plan(other)])) == str(check([plan, build_plan(other)]))
    assert "expected shape [500, 2, 2]" in str(check([small, build_plan(other)]))
