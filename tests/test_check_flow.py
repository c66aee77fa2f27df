"""What is not proven: bodies that ranks take or repeat on what only a run knows."""

import re

import numpy as np
import pytest
from onnx import ModelProto, helper, parser
from programs import checked, model

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.check import check
from rankwise.models.plan import build_plan, outline

ENDS = "(float[2] x, bool fed, int64 many) => (y)"
COUNT = "two = Constant<value_int=2>() "

SUM = "(p) { p = R.AllReduce(x) }"
SUMS = """(p) { three = Constant<value_int=3>() p = Loop (three, , x) <
    body = b (i, go, v) => (on, w) { on = Identity(go) w = R.AllReduce(v) }> }"""
IDS = "(p) { p = R.ParallelFor <body = b (id) => (o) { o = Identity(x) }> (two) }"
NONE = "(q) { q = Neg(x) }"
OTHER = "(q) { q = R.AllReduce(x) }"
LONGER = "(q) { h = Concat<axis=0>(x, x) q = R.AllReduce(h) }"


def branch(then: str, other: str) -> str:
    return f"{COUNT} y = If (fed) <then_branch = t () => {then}, else_branch = e () => {other}>"


@pytest.mark.parametrize(
    ("then", "other", "what"),
    [
        (IDS, NONE, "ParallelFor 'p'"),
        (NONE, IDS, "ParallelFor 'p'"),
        (SUMS, OTHER, "AllReduce 'w'"),
        (SUM, LONGER, "AllReduce 'p'"),
        (SUM, OTHER, "AllReduce 'p'"),
    ],
)
def test_a_fed_condition_around_what_all_ranks_take_part_in_is_found(
    then: str, other: str, what: str
) -> None:
    verdict = checked(branch(then, other), ends=ENDS)
    assert not verdict.is_proof and not verdict.certain
    assert [finding.kind for finding in verdict.findings] == ["branch", "branch"]
    assert f"the same on rank 1, since it decides on {what}" in str(verdict.findings[0])


ASKING = (
    "asked = If (fed) <then_branch = t () => (p) { THEN }, else_branch = e () => (q) { ELSE }>"
)
TURNS = """
    zero = Constant<value_int=0>() on = Constant<value = bool {1}>()
    last = Loop (many, on, zero) <body = b (i, go, k) => (on2, next) {
        on2 = Identity(go) r = R.Size() one = Constant<value_int=1>() next = Add(k, one) }>
    few = Constant<value_int=7>() c = Less(last, few)
    y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                else_branch = e () => (b) { b = Neg(x) }>
"""


def asking(then: str, other: str) -> str:
    return ASKING.replace("THEN", f"r = R.Rank() {then}").replace("ELSE", f"s = R.Size() {other}")


def test_a_branch_that_only_asks_gives_either() -> None:
    shapes = asking("p = Neg(x)", "q = Concat<axis=0>(x, x)") + " y = R.AllReduce(asked)"
    verdict = checked(shapes, ends=ENDS)
    assert (verdict.findings, verdict.open, verdict.is_proof) == ((), 2, False)
    assert checked(shapes.replace("Concat<axis=0>(x, x)", "Abs(x)"), ends=ENDS).is_proof
    trips = asking("p = Constant<value_int=3>()", "q = Constant<value_int=4>()")
    loop = """ y = Loop (asked, , x) <
        body = b (i, go, v) => (on, w) { on = Identity(go) w = R.AllReduce(v) }>"""
    assert {f.kind for f in checked(trips + loop, ends=ENDS).findings} == {"branch"}


def test_what_a_loop_counts_is_not_the_same_on_all_ranks() -> None:
    assert {f.kind for f in checked(TURNS, ends=ENDS).findings} == {"branch"}
    told = "told = R.Broadcast(many)" + TURNS.replace("(many", "(told")
    assert checked(told, ends=ENDS).is_proof


def test_states_of_a_scan_of_unknown_length_are_followed() -> None:
    body = """y = Scan <num_scan_inputs = 1, body = b (state, e) => (longer) {
        r = R.Rank() longer = Concat<axis=0>(state, state) }> (x, rows)
        z = R.AllReduce(y)"""
    verdict = checked(body, ends="(float[2] x, float[n] rows) => (y, z)")
    assert verdict.findings == () and verdict.open == 2


def test_the_body_of_a_parallel_for_is_followed_where_its_count_is_fed() -> None:
    body = "y = R.ParallelFor <body = b (id) => (o) { o = R.AllReduce(z) }> (many)"
    assert checked(f"z = Neg(x) {body}", ends=ENDS).is_proof
    wrong = checked([f"z = Neg(x) {body}", f"z = Concat<axis=0>(x, x) {body}"], ends=ENDS)
    assert "expected shape [2], as in AllReduce 'o' of rank 0, got [4]" in str(wrong)


@pytest.mark.parametrize("then", [IDS, SUMS])
def test_ranks_that_decide_differently_are_told_though_one_asks_more(then: str) -> None:
    def of(rank: int) -> ModelProto:
        body = branch(then, NONE if then == IDS else OTHER)
        ends = "(float[2] x, bool fed) => (y, asked)" if rank else "(float[2] x, bool fed) => (y)"
        return model(f"{asking('p = Neg(r)', 'q = Neg(s)') if rank else ''} {body}", ends)

    assert outline(build_plan(of(0))) == outline(build_plan(of(1))) != ""

    def on_rank(comm: Communicator) -> None:
        with rankwise.InferenceSession(of(comm.rank).SerializeToString(), comm=comm) as session:
            session.run(None, {"x": np.ones(2, np.float32), "fed": np.array(comm.rank == 0)})

    with pytest.raises(Exception, match="expected the same condition on all ranks"):
        local.run(2, on_rank, timeout=20)


TRAINED = """
    one = Constant<value_floats=[1.0]>() ratio = Constant<value_float=0.5>()
    is_trained = Constant<value = bool {TRAINED}>()
    drawn = Dropout(one, ratio, is_trained) zero = Constant<value_floats=[0.0]>()
    c = Greater(drawn, zero)
    y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                else_branch = e () => (b) { b = Neg(x) }>
"""


def test_what_a_rank_draws_is_not_the_same_on_all() -> None:
    drawn = TRAINED.replace("TRAINED", "1")
    assert {f.kind for f in checked(drawn).findings} == {"branch"}
    assert checked(drawn.replace("Dropout(", "Dropout<seed=1>(")).is_proof


def test_the_result_of_a_parallel_for_is_the_same_on_all_ranks() -> None:
    body = """
        two = Constant<value_int=2>()
        p = R.ParallelFor <body = b (id) => (o) { i = Constant<value_int=0>() o = Gather(x, i) }>
            (two)
        half = Constant<value_float=0.5>() c = Greater(p, half)
        y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                    else_branch = e () => (b) { b = Neg(x) }>
    """
    assert checked(body).findings == ()


SCAN = """y = Scan <num_scan_inputs = 1, ATTRIBUTES
    body = b (e) => (s) { s = R.AllReduce(e) }> (x)"""


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("scan_input_axes = [2],", "expected scan_input_axes from -2 to 1, got 2"),
        ("scan_input_axes = [-3],", "expected scan_input_axes from -2 to 1, got -3"),
        ("scan_output_axes = [2],", "expected scan_output_axes from -2 to 1, got 2"),
    ],
)
def test_dims_of_a_scan_that_there_are_none_of_are_found(attributes: str, message: str) -> None:
    body = SCAN.replace("ATTRIBUTES", attributes)
    verdict = checked(body, ends="(float[4, 3] x) => (y)")
    assert [f.text for f in verdict.certain] == [message] * 2
    good = re.sub(r"-?\d\]", "-1]", body)
    assert checked(good + " z = R.AllReduce(y)", ends="(float[4, 3] x) => (z)").is_proof


PAIRS = "groups=[0, 1, 2, 3], group_size=2"
TOLD = (
    f"told = R.Broadcast<{PAIRS}>(fed) "
    + """
    sum = If (told) <then_branch = t () => (p) { a = R.AllReduce<PAIRS>(x) THEN },
                     else_branch = e () => (q) { b = R.AllReduce<PAIRS>(x) ELSE }>
""".replace("PAIRS", PAIRS)
)


def told(then: str, other: str) -> str:
    return TOLD.replace("THEN", then).replace("ELSE", other)


def test_pairs_of_ranks_may_go_different_ways() -> None:
    wider = told("p = Neg(a)", "q = Concat<axis=0>(b, b)") + "y = R.AllReduce(sum)"
    verdict = checked(wider, 4, ENDS)
    assert verdict.findings == () and not verdict.is_proof
    assert checked(told("p = Neg(a)", "q = Abs(b)") + "y = R.AllReduce(sum)", 4, ENDS).is_proof
    loop = """ y = Loop (sum, , x) <
        body = l (i, go, v) => (on, w) { on = Identity(go) w = R.AllReduce(v) }>"""
    three, four = ("p = Constant<value_int=3>()", "q = Constant<value_int=4>()")
    found = checked(told(three, four) + loop, 4, ENDS).findings
    assert {finding.kind for finding in found} == {"branch"}
    assert checked(told(three, three.replace("p", "q", 1)) + loop, 4, ENDS).is_proof


CALLING = """
    told = R.Broadcast(x) called = R.F(told) i = Constant<value_int=0>() e = Gather(called, i)
    half = Constant<value_float=0.5>() c = Greater(e, half)
    y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                else_branch = e () => (b) { b = Neg(x) }>
"""


@pytest.mark.parametrize(
    ("inner", "kinds"),
    [
        (("Abs", "Abs"), set()),
        (("Abs", "Neg"), {"branch"}),
        (("RandomNormalLike", "RandomNormalLike"), {"branch"}),
    ],
)
def test_functions_are_looked_into(inner: tuple[str, str], kinds: set[str]) -> None:
    plans = []
    for op_type in inner:
        made = model(CALLING.replace("R.F", "own.F"))
        text = f"(v) => (w) {{ w = {op_type}(v) }}"
        made.functions.append(
            parser.parse_function(f'<domain: "own", opset_import: ["" : 20]> F {text}')
        )
        made.opset_import.append(helper.make_opsetid("own", 1))
        plans.append(build_plan(made))
    assert {finding.kind for finding in check(plans).findings} == kinds
