"""What is wrong with small programs, each beside the one in which it is mended."""

import re

import numpy as np
import pytest
from mistakes import CASES, FROM_0, NEXT, TO_1
from onnx import numpy_helper
from programs import checked, model, models

from rankwise.models.check import check, slim
from rankwise.models.errors import ModelError
from rankwise.models.plan import Communicate, build_plan


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
def test_the_ring_of_the_slide_fits_but_would_hang_if_sends_blocked(ranks: int) -> None:
    body = (
        NEXT
        + """
        c = Constant<value = bool {1}>() own = Gather(x, r)
        first = Loop (n, c, own) <body = b (i, d, next_value) => (e, sum) {
            t = R.Send(next_value, next) received = R.Recv<FLOAT>(last)
            k = Sub(r, i) j = Sub(k, one) at = Mod(j, n) local = Gather(x, at)
            sum = Add(received, local) e = Identity(d)
        }>
        y = Loop (n, c, first) <body = g (i2, d2, value) => (e2, came) {
            u = R.Send(value, next) came = R.Recv<FLOAT>(last) e2 = Identity(d2)
        }>
    """
    )
    ends = f"(float[{ranks}] x) => (y)"
    assert not checked(body, ranks, ends).findings
    (found,) = checked(body, ranks, ends, rendezvous=True).findings
    assert found.kind == "deadlock" and found.text.count("Send 't'") == ranks


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


def test_a_branch_concerns_only_those_whom_it_speaks_to() -> None:
    told = "g = R.Broadcast<groups=[0, 1]>(x) e = Gather(g, c0) c = Greater(e, half)"
    then = "b (c) <then_branch = t () => (a) { u = R.SEND a = Neg(x) },"
    other = "else_branch = e () => (o) { o = Abs(x) }>"
    constants = (
        "c0 = Constant<value_int=0>() c1 = Constant<value_int=1>() half = "
        "Constant<value_float=0.5>()"
    )
    bodies = [
        f"{constants} {told} y = {then.replace('b (c)', 'If (c)')} {other}".replace("SEND", call)
        for call in ("Send(x, c1)", "Recv<FLOAT>(c0)")
    ]
    assert not checked([*bodies, "y = Neg(x)"]).findings
    own = [body.replace(told, "e = Gather(x, c0) c = Greater(e, half)") for body in bodies]
    assert {f.kind for f in checked([*own, "y = Neg(x)"]).findings} == {"branch"}


def test_defaults_that_schemas_do_not_know_are_known() -> None:
    body = """
        shape = Constant<value_ints=[1, 4, 1]>() signal = Reshape(x, shape)
        step = Constant<value_int=2>() frame = Constant<value_int=4>()
        seen = STFT(signal, step, , frame) y = R.AllReduce(seen)
    """
    three = "shape = Constant<value_ints=[1, 1, 3, 2]>() f = Constant<value=float[1] {0}>()"
    expanded = f"{three} h = Expand(f, shape) y = R.AllReduce(h)"
    assert not checked([body, expanded]).findings
    assert "expected shape [1, 1, 3, 2]" in str(
        checked([body, expanded.replace("1, 3,", "1, 5,")])
    )


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


@pytest.mark.parametrize(
    ("counts", "body", "text"),
    [
        ((2, 2), "y = R.AllReduce(x)", ""),
        ((4, 4), "y = R.AllReduce(x)", "rank 0, ParallelFor 'y': expected a count of 2, got 4"),
        ((4, 4), "y = Neg(x)", ""),
        ((0, 0), "y = Neg(x)", "expected a count of at least 1, got 0"),
        ((4, 5), "y = Neg(x)", "expected count 4, as in ParallelFor 'y' of rank 0, got 5"),
    ],
)
def test_the_ids_of_a_parallel_for_are_dealt(
    counts: tuple[int, int], body: str, text: str
) -> None:
    loop = f"y = R.ParallelFor <body = b (id) => (y) {{ {body} }}> (n)"
    bodies = [f"n = Constant<value_int={count}>() {loop}" for count in counts]
    found = checked(bodies)
    assert text in str(found) and bool(found.findings) == bool(text)


def test_a_scalar_counts_as_one_element() -> None:
    body = (
        NEXT
        + """
        all = R.AllGather(r) count = Size(all) peer = Sub(count, one)
        zero = Constant<value_int=0>() c = Equal(r, zero) part = R.Scatter(r) some = Size(part)
        y = If (c) <then_branch = t () => (a) { s1 = R.Send(x, peer) a = Neg(x) },
                    else_branch = e () => (b) { b = R.Recv<FLOAT>(some) }>
    """
    )
    # Rank 1 has nothing of the scalar, and so receives of rank 0.
    assert not checked(body).findings


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
