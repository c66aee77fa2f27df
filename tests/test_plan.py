"""Plans: what goes into which fragment, in which order, on graphs written by hand."""

import onnx
import pytest
from onnx import parser

from rankwise.models.errors import ModelError
from rankwise.models.plan import (
    Branch,
    Compute,
    ParallelFor,
    Plan,
    Repeat,
    Scan,
    build_plan,
    communicates,
)


def model(body: str, ends: str = "(float[n] x) => (float[n] y)") -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    return parser.parse_model(f"{header} g {ends} {{ {body} }}")


def written(plan: Plan) -> list[str]:
    """Instructions as text: operators of fragments joined by +, communication in brackets."""
    nodes = plan.model.graph.node
    return [
        f"[{step.op}]"
        if not isinstance(step, Compute)
        else "+".join(nodes[k].op_type for k in step.nodes)
        for step in plan.instructions
    ]


def test_a_graph_without_communication_is_one_fragment() -> None:
    plan = build_plan(model("h = Relu(x) y = Neg(h)"))
    assert plan.instructions == (Compute((0, 1), ("x",), ("y",)),)
    assert not communicates(plan.model)


def test_communication_cuts_the_graph() -> None:
    plan = build_plan(
        model("a = Relu(x) b = rankwise.AllReduce(a) c = Neg(b) y = rankwise.AllReduce(c)")
    )
    assert written(plan) == ["Relu", "[AllReduce]", "Neg", "[AllReduce]"]
    assert plan.communications[0].attributes == {"op": "sum", "algorithm": "auto"}


def test_work_that_needs_no_communication_is_done_before_it() -> None:
    plan = build_plan(
        model("a = rankwise.AllReduce(x) b = Neg(a) c = Relu(x) d = Abs(c) y = Add(b, d)")
    )
    assert written(plan) == ["Relu+Abs", "[AllReduce]", "Neg+Add"]
    assert plan.instructions[0] == Compute((2, 3), ("x",), ("d",))


def test_fragments_are_at_most_one_more_than_communications() -> None:
    rows = [f"a{k} = rankwise.AllReduce(x) b{k} = Neg(a{k})" for k in range(9)]
    plan = build_plan(
        model(" ".join(rows) + " y = Sum(" + ", ".join(f"b{k}" for k in range(9)) + ")")
    )
    assert len(plan.instructions) - len(plan.communications) <= 10


def test_communication_keeps_the_order_of_the_file() -> None:
    body = (
        "a = rankwise.AllReduce(x) b = rankwise.AllGather(x) c = Add(a, b) y = rankwise.Barrier()"
    )
    plan = build_plan(model(body, "(float[n] x) => (float[n] c, bool y)"))
    assert [step.op for step in plan.communications] == ["AllReduce", "AllGather", "Barrier"]


def test_nodes_in_any_order_are_sorted_by_what_they_read_tokens_included() -> None:
    body = "y = Neg(r) r, t2 = rankwise.AllReduce(x, t) t = rankwise.Barrier()"
    plan = build_plan(model(body))
    assert written(plan) == ["[Barrier]", "[AllReduce]", "Neg"]


def test_rank_and_size_come_first_and_cut_nothing() -> None:
    body = """
        r = rankwise.Rank() s = rankwise.Size() a = Neg(x) b = Cast<to=1>(r) y = Add(a, b)
        unread = rankwise.Size()
    """
    assert written(build_plan(model(body))) == ["[Rank]", "Neg+Cast+Add"]


def test_a_constant_is_in_each_fragment_that_reads_it() -> None:
    body = """
        k = Constant<value_ints=[1, -1]>() a = Reshape(x, k) b = rankwise.AllReduce(a)
        y = Reshape(b, k)
    """
    first, _, last = build_plan(model(body)).instructions
    assert first == Compute((0, 1), ("x",), ("a",))
    assert last == Compute((0, 3), ("b",), ("y",))


def test_a_constant_that_communication_reads_is_given_once() -> None:
    body = "k = Constant<value_float=2.0>() a = rankwise.AllReduce(k) b = Add(a, k) y = Add(b, x)"
    first, _, last = build_plan(model(body)).instructions
    assert (first.outputs, last.inputs) == (("k",), ("a", "x"))


def test_outputs_may_be_inputs_weights_and_results_of_communication() -> None:
    made = model(
        "y = rankwise.AllReduce(x)", "(float[n] x) => (float[n] x, float[2] w, float[n] y)"
    )
    made.graph.initializer.append(onnx.helper.make_tensor("w", 1, [2], [1.0, 2.0]))
    plan = build_plan(made)
    assert (plan.constants, plan.outputs) == (("w",), ("x", "w", "y"))
    assert plan.last_uses == (frozenset(),)


def test_values_are_dropped_after_their_last_use() -> None:
    plan = build_plan(
        model("a = Neg(x) b = rankwise.AllReduce(a) c = Add(b, a) y = rankwise.AllReduce(c)")
    )
    assert [set(names) for names in plan.last_uses] == [{"x"}, set(), {"a", "b"}, {"c"}]


def test_what_nobody_reads_is_not_computed() -> None:
    plan = build_plan(model("dead = Relu(x) y = Neg(x) token = rankwise.Send(x, to) to = Size(x)"))
    assert written(plan) == ["Neg+Size", "[Send]"]


def test_functions_that_communicate_are_inlined() -> None:
    made = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20, "rankwise" : 1, "local" : 1]>
        g (float[n] x) => (float[n] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 20, "rankwise" : 1]>
        twice (x) => (y) { a = rankwise.AllReduce(x) y = Add(a, a) }
    """)
    assert communicates(made)
    assert written(build_plan(made)) == ["[AllReduce]", "Add"]


def test_control_flow_without_communication_is_computed() -> None:
    body = """
        a = rankwise.AllReduce(x)
        y = If (c) <then_branch = t () => (float[n] p) { p = Neg(a) },
                    else_branch = e () => (float[n] q) { q = Identity(a) }>
    """
    plan = build_plan(model(body, "(float[n] x, bool c) => (float[n] y)"))
    assert plan.instructions[1] == Compute((1,), ("c", "a"), ("y",))


def test_a_branch_that_communicates_is_an_instruction_with_plans() -> None:
    body = """
        k = Constant<value_ints=[1, -1]>() a = Neg(x) b = Relu(x)
        y = If (c) <then_branch = t () => (float[n] p) {
                        s = rankwise.AllReduce(a) p = Reshape(s, k) },
                    else_branch = e () => (float[n] q) { q = Mul(b, w) }>
        z = Neg(y)
    """
    made = model(body, "(float[n] x, bool c) => (float[n] z)")
    made.graph.initializer.append(onnx.helper.make_tensor("w", 1, [1], [2.0]))
    plan = build_plan(made)
    first, branch, last = plan.instructions
    assert isinstance(branch, Branch) and isinstance(first, Compute)
    assert (branch.node_name, branch.inputs, branch.outputs) == ("y", ("c", "a", "b"), ("y",))
    assert (first.outputs, last.inputs) == (("a", "b"), ("y",))
    then, other = branch.bodies
    assert (then.inputs, then.captured, written(then)) == (
        (), ("a",), ["[AllReduce]", "Constant+Reshape"]
    )  # fmt: skip
    assert (other.captured, written(other)) == (("b",), ["Mul"])
    assert [tensor.name for tensor in other.model.graph.initializer] == ["w"]
    assert then.is_collective and not other.is_collective and plan.is_collective
    assert [step.op for step in plan.communications] == ["AllReduce"]
    assert not plan.without_weights().instructions[1].bodies[1].model.ByteSize()


def test_a_loop_says_what_it_carries_and_whether_its_body_stops_it() -> None:
    body = """
        y, all = Loop (n, , x) <body = b (int64 i, bool go, float[n] v) => (
            bool go_on, float[n] s, float[n] v) {
            s = rankwise.AllReduce(v) go_on = Identity(go) }>
        t = rankwise.Barrier()
    """
    plan = build_plan(model(body, "(float[n] x, int64 n) => (float[n] y, float[m, n] all)"))
    repeat, _ = plan.instructions
    assert isinstance(repeat, Repeat)
    assert (repeat.inputs, repeat.outputs) == (("n", "", "x"), ("y", "all"))
    assert (repeat.carried, repeat.stops) == (1, False)
    assert repeat.body.outputs == ("go_on", "s", "v")


def test_a_scan_says_how_it_walks() -> None:
    body = """
        y, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_directions = [1],
            body = b (float[n] v, float[n] e) => (float[n] s, float[n] u) {
            u = rankwise.AllReduce(e) s = Add(u, v) }> (x, m)
    """
    ends = "(float[n] x, float[n,k] m) => (float[n] y, float[k,n] all)"
    (scan,) = build_plan(model(body, ends)).instructions
    assert isinstance(scan, Scan)
    assert (scan.states, scan.input_dims, scan.input_reversed) == (1, (1,), (False,))
    assert (scan.output_dims, scan.output_reversed) == ((0,), (True,))


def test_parallel_for_is_an_instruction_though_nothing_in_it_communicates() -> None:
    body = """
        y = rankwise.ParallelFor <returns = "concat", dim = 1,
            body = b (int64 id, float[n] v) => (float[n] p) { p = Neg(v) }> (count, x)
    """
    (step,) = build_plan(model(body, "(float[n] x, int64 count) => (float[n] y)")).instructions
    assert isinstance(step, ParallelFor)
    assert (step.inputs, step.returns, step.dim) == (("count", "x"), "concat", 1)
    assert step.body.inputs == ("id", "v") and step.attributes == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a = Neg(b) b = Neg(a) y = Add(x, b)", "cycle among Neg 'a', Neg 'b'"),
        ("y = Add(x, ghost)", "reads 'ghost', which nothing makes"),
        ("z = Neg(x)", "nothing makes the output 'y'"),
        ("y = rankwise.AllSum(x)", "expected an operator of Rank, Size"),
        ("y = rankwise.AllReduce<axis=1>(x)", "among op, groups.* got 'axis'"),
        ("t = rankwise.Send(x) y = Neg(x)", "expected 2 inputs before the tokens"),
        (
            "y = If (c) <then_branch = t () => (float[n] p) { p = rankwise.AllReduce(ghost) },"
            "else_branch = e () => (float[n] q) { q = Neg(x) }>",
            "If 'y' reads 'ghost', which nothing makes",
        ),
        (
            "y = If (c) <then_branch = t () => (float[n] p) { p = rankwise.AllReduce<k=1>(x) },"
            "else_branch = e () => (float[n] q) { q = Neg(x) }>",
            "If 'y' > AllReduce 'p': expected attributes of AllReduce",
        ),
        (
            "y = rankwise.ParallelFor(c) <body = b (int64 i, float[n] v) => (float[n] p)"
            " { p = Neg(v) }>",
            "ParallelFor 'y': expected 1 inputs of its body, got 2",
        ),
        (
            "y, z = Scan <num_scan_inputs = 1, body = b (float v, float e) => (float w, float u) {"
            " w = Identity(v) u = rankwise.AllReduce(e) }> (, x, x)",
            "Scan 'y' goes through a batch, as before opset 9",
        ),
        (
            'y = rankwise.ParallelFor(c) <returns = "all", body = b (int64 i) => (float p) {'
            " p = Cast<to=1>(i) }>",
            "expected returns of first, concat, got 'all'",
        ),
        (
            "y, z = Loop (, c, x) <body = b (int64 i, bool go, float[n] v) => (bool go, p)"
            " { p = rankwise.AllReduce(v) }>",
            "Loop 'y': expected 3 outputs of its body, got 2",
        ),
    ],
)
def test_what_cannot_be_planned_is_an_error(body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_plan(model(body, "(float[n] x, bool c) => (float[n] y)"))


def test_what_is_left_out_of_a_run_sends_nothing_in_its_bodies() -> None:
    body = """
        one = Constant<value_int=1>() a = Abs(x)
        h = If (c) <then_branch = t () => (p) { s = rankwise.Send(a, one) p = Neg(a) },
                    else_branch = e () => (q) { q = Relu(a) }>
        g = If (c) <then_branch = t2 () => (p2) { p2 = rankwise.AllReduce(x) },
                    else_branch = e2 () => (q2) { q2 = Relu(x) }>
        z = Add(g, h)
    """
    plan = build_plan(model(body, "(float[n] x, bool c) => (a, z)"))
    kept = [plan.instructions[k] for k in plan.reaching(("x", "c"), ("a",))]
    assert [step.outputs for step in kept if isinstance(step, Branch)] == [("h",)]
