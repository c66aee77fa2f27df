"""Names that are made up beside those of a model, and nodes that make nothing anyone reads."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from programs import model
from sessions import operand, run

from rankwise.models.check import check
from rankwise.models.errors import ModelError
from rankwise.models.functions import lower
from rankwise.models.nodes import free, value_names
from rankwise.models.plan import build_plan
from rankwise.models.tokens import ordered

ENDS = "(float[n] x) => (float[n] y)"


def slashed(made: onnx.ModelProto) -> onnx.ModelProto:
    """Put "/" for "__" in names, which the text format does not take."""
    for node in made.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", "/") for name in names]
    for value in made.graph.input:
        value.name = value.name.replace("__", "/")
    return made


def given_twice(made: onnx.ModelProto) -> list[str]:
    names = [value.name for value in made.graph.input]
    names += [name for node in made.graph.node for name in node.output if name]
    return [name for name, count in Counter(names).items() if count > 1]


def test_names_of_bodies_are_taken_too() -> None:
    made = model(
        "y = If (c) <then_branch = t () => (a) { i = Neg(x) a = Abs(i) },"
        "else_branch = e () => (b) { b = Neg(x) }>",
        "(float[n] x, bool c, float[n] unread) => (y)",
    )
    taken = value_names(made.graph)
    assert taken == {"x", "c", "unread", "y", "i", "a", "b"}
    assert [free(name, taken) for name in ("i", "new", "new", "i")] == [
        "i/2",
        "new",
        "new/2",
        "i/3",
    ]


@pytest.mark.parametrize("algorithm", ["ring", "tree"])
def test_what_lowering_adds_has_names_of_its_own(algorithm: str) -> None:
    made = model(
        """y__Rank = R.Rank() y__Size = R.Size() y__after = R.Barrier() s = R.Barrier(y__after)
        y = R.AllReduce(x, s, y__after) k = Add(y__Rank, y__Size) f = Cast<to=1>(k)
        z = Add(y, f)""",
        "(float[n] x) => (float[n] z)",
    )
    slashed(made)
    parts = [lower(made, {"AllReduce": algorithm}, lambda _, r=r: (r, 2)) for r in range(2)]
    assert not given_twice(parts[0])
    x = operand(0, 4)
    for rank, (z,) in enumerate(run(2, lambda rank: parts[rank], lambda rank: {"x": x})):
        np.testing.assert_array_equal(z, 2 * x + rank + 2)


def test_a_token_has_no_name_of_an_input_that_nothing_reads() -> None:
    made = model(
        "a = R.AllReduce(x) b = Relu(x) c = R.AllReduce(b) y = Add(a, c)",
        "(float[n] x, float[n] a__token) => (float[n] y)",
    )
    stated = ordered(slashed(made), "tokens")
    assert not given_twice(stated)
    assert ordered(stated, "tokens") == stated


def without_outputs(made: onnx.ModelProto) -> onnx.ModelProto:
    del made.graph.node[0].output[:]
    return made


def test_a_collective_whose_result_nobody_takes_can_be_lowered() -> None:
    made = without_outputs(
        model("a = R.AllReduce(x, t, u) t = R.Barrier() u = R.Barrier() y = R.AllReduce(x)", ENDS)
    )
    lowered = lower(made, {"AllReduce": "ring"}, None)
    assert [node.op_type for node in lowered.graph.node].count("RingAllReduceSum") == 2


def test_a_barrier_without_name_or_outputs_can_be_checked() -> None:
    plans = [
        build_plan(without_outputs(model("t = R.Barrier() y = Neg(x)", ENDS))),
        build_plan(model("y = Neg(x)", ENDS)),
    ]
    assert "Barrier '': expected rank 1 to call it too, but that rank ends" in str(check(plans))


@pytest.mark.parametrize("algorithm", ["ring", "recursive_doubling"])
@pytest.mark.parametrize(
    ("op", "kind", "message"),
    [
        ("mean", "int32", "expected floating point for op 'mean', got int32"),
        ("band", "float", "op 'band' is not defined for dtype float32"),
        ("land", "int64", "expected bool for op 'land', as ONNX has it"),
    ],
)
def test_reductions_that_their_elements_do_not_have_are_refused(
    algorithm: str, op: str, kind: str, message: str
) -> None:
    made = model(f'y = R.AllReduce<op="{op}">(x)', f"({kind}[n] x) => ({kind}[n] y)")
    with pytest.raises(ModelError, match=f"AllReduce 'y': {message}"):
        lower(made, {"AllReduce": algorithm}, lambda _: (0, 2))
