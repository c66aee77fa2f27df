"""The order of communication: where it comes from, and that it is kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from sessions import operand, operands, run

from rankwise.models.effects import Place, is_effect, place_of, set_place
from rankwise.models.errors import ModelError
from rankwise.models.nodes import with_inner
from rankwise.models.plan import build_plan
from rankwise.models.plan.seal import set_seal
from rankwise.models.sharding import shard
from rankwise.models.tokens import ordered, token_of
from rankwise.runtime.cli import main

WAYS = ("tokens", "annotation", "plain")


def model(
    body: str, ends: str = "(float[n,m] x) => (float[a,b] y)", **weights: Any
) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    made = parser.parse_model(f"{header} g {ends} {{ {body} }}")
    for node in with_inner(made.graph.node):
        node.name = node.name or next(iter(node.output), "")
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made


def names(made: onnx.ModelProto) -> list[str]:
    return [step.node_name for step in build_plan(made).communications]


def shuffled(made: onnx.ModelProto, seed: int, *, effects: bool) -> onnx.ModelProto:
    """The nodes of a graph in another order; those that communicate keep theirs, unless asked."""
    mixed = onnx.ModelProto()
    mixed.CopyFrom(made)
    nodes = list(made.graph.node)
    random.Random(seed).shuffle(nodes)
    if not effects:
        in_order = iter([node for node in made.graph.node if is_effect(node)])
        nodes = [next(in_order) if is_effect(node) else node for node in nodes]
    del mixed.graph.node[:]
    mixed.graph.node.extend(nodes)
    return mixed


BRANCHING = """
    a = Neg(x) p = rankwise.AllReduce(a)
    b = Abs(x) c = Relu(b) q = rankwise.AllReduce<op="max">(c)
    r = rankwise.AllReduce<op="min">(x)
    d = Add(p, q) s = rankwise.AllGather(d) t = rankwise.Barrier()
    e = ReduceSum<keepdims=0>(s) f = Mul(e, r) g = rankwise.Reduce(f) y = Add(f, g)
"""


@pytest.mark.parametrize("seed", range(20))
def test_where_compute_nodes_stand_changes_nothing(seed: int) -> None:
    made = model(BRANCHING)
    assert names(made) == ["p", "q", "r", "s", "t", "g"]
    assert names(shuffled(made, seed, effects=False)) == names(made)


@pytest.mark.parametrize("how", ["tokens", "annotation"])
@pytest.mark.parametrize("seed", range(10))
def test_a_stated_order_survives_any_order_of_nodes(how: Any, seed: int) -> None:
    made = ordered(model(BRANCHING), how)
    assert names(shuffled(made, seed, effects=True)) == ["p", "q", "r", "s", "t", "g"]


def test_an_order_that_is_only_that_of_the_file_is_kept_or_missed() -> None:
    made = ordered(model(BRANCHING), "plain")
    with pytest.raises(ModelError, match="the 6 nodes that communicate are not those of when"):
        build_plan(shuffled(made, 0, effects=True))
    assert names(shuffled(made, 0, effects=False)) == ["p", "q", "r", "s", "t", "g"]
    set_seal(made, None)
    assert names(shuffled(made, 0, effects=True)) != ["p", "q", "r", "s", "t", "g"]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_each_statement_is_made_from_each(first: Any, second: Any) -> None:
    made = ordered(ordered(model(BRANCHING), first), second)
    assert names(made) == ["p", "q", "r", "s", "t", "g"]
    effects = [node for node in made.graph.node if is_effect(node)]
    places = [place_of(node) for node in effects]
    numbered = [Place(k, 6) for k in range(1, 7)]
    assert places == (numbered if second == "annotation" else [None] * 6)
    assert all(map(token_of, effects[:-1])) == (second == "tokens")
    onnx.checker.check_model(made, full_check=True)
    expected = run(3, model(BRANCHING))
    np.testing.assert_array_equal(run(3, made), expected)


def test_numbers_order_what_does_not_depend_and_leave_the_others_where_they_are() -> None:
    made = model(
        "a = rankwise.AllReduce<order=7>(x) b = rankwise.AllGather(x) "
        "c = rankwise.AllReduce<order=3>(x) d = Neg(c) y = Sum(a, b, d)"
    )
    assert names(made) == ["c", "b", "a"]


def test_bodies_have_an_order_of_their_own_and_a_place_in_that_around_them() -> None:
    made = model(
        """
        p = rankwise.AllReduce(x)
        y = If (c) <
            then_branch = t () => (float[n,m] u) {
                v = rankwise.AllReduce(x) w = rankwise.AllReduce<op="max">(x) u = Add(v, w)
            },
            else_branch = e () => (float[n,m] z) { z = Identity(x) }>
        q = rankwise.AllReduce(x)
        """,
        "(float[n,m] x, bool c) => (float[n,m] y, float[n,m] p, float[n,m] q)",
    )
    noted = ordered(made, "annotation")
    outer = [node for node in noted.graph.node if is_effect(node)]
    assert [(node.op_type, place_of(node)) for node in outer] == [
        ("AllReduce", (1, 3)), ("If", (2, 3)), ("AllReduce", (3, 3)),
    ]  # fmt: skip
    inner = [place_of(n) for n in with_inner(noted.graph.node) if n.name in ("v", "w")]
    assert inner == [(1, 2), (2, 2)]
    assert names(shuffled(noted, 1, effects=True)) == ["p", "v", "w", "q"]
    set_place(outer[1], Place(4))
    set_seal(noted, None)
    assert names(noted) == ["p", "q", "v", "w"]
    with pytest.raises(ModelError, match="If 'y' communicates in its body, and has no tokens"):
        ordered(made, "tokens")


def test_functions_are_inlined_where_their_order_is_stated() -> None:
    made = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20, "rankwise" : 1, "local" : 1]>
        g (float[n,m] x) => (float[n,m] y) { h = local.twice(x) y = local.twice(h) }
        <domain: "local", opset_import: ["" : 20, "rankwise" : 1]>
        twice (x) => (y) { a = rankwise.AllReduce(x) b = rankwise.AllReduce(x) y = Add(a, b) }
    """)
    noted = ordered(made, "annotation")
    places = [place_of(node) for node in noted.graph.node if is_effect(node)]
    assert places == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for (y,) in run(2, noted):
        np.testing.assert_array_equal(y, 8 * sum(operands(2)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "a = rankwise.AllReduce<order=1>(x) y = rankwise.AllReduce<order=1>(x)",
            "each node's own, got 1 of AllReduce 'a' and of AllReduce 'y'",
        ),
        (
            "a = rankwise.AllReduce<order=2>(x) b = Neg(a) y = rankwise.AllReduce<order=1>(b)",
            "AllReduce 'y' is to come before AllReduce 'a', by their orders 1 and 2, but depends",
        ),
        (
            'y = rankwise.AllReduce<order="first">(x)',
            "expected an order that is a number, got 'first'",
        ),
        (
            "a, t = rankwise.AllReduce(x, u) y, u = rankwise.AllReduce(x, t)",
            "cycle among AllReduce 'a', AllReduce 'y'",
        ),
    ],
)
def test_an_order_that_cannot_be_kept_is_an_error(body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_plan(model(body))


FIRST = "a = rankwise.AllReduce(x) b = rankwise.AllReduce(h) y = Sub(a, b) h = Neg(x)"
SECOND = "b = rankwise.AllReduce(h) h = Neg(x) a = rankwise.AllReduce(x) y = Sub(a, b)"


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_with_opposite_orders_are_refused_with_the_pair(size: int) -> None:
    with pytest.raises(ModelError, match=r"rank 1, AllReduce 'b'.*AllReduce 'a'.*another order"):
        run(size, lambda rank: model(SECOND if rank == 1 else FIRST))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("how", ["tokens", "annotation"])
def test_ranks_whose_order_is_stated_may_have_their_nodes_in_any_order(
    size: int, how: Any
) -> None:
    made = ordered(model(FIRST), how)
    for (y,) in run(size, lambda rank: shuffled(made, rank, effects=True)):
        np.testing.assert_array_equal(y, 2 * sum(operands(size)))


def sharded(folder: Path) -> Path:
    weights = {name: operand(k, 6, 6) for k, name in enumerate(["w1", "w2", "w3", "w4"])}
    made = model(
        "a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = MatMul(x, w3) e = Relu(d) "
        "f = MatMul(e, w4) g = Relu(c) h = Tanh(f) y = Sub(g, h)",
        "(float[n,6] x) => (float[n,6] y)",
        **weights,
    )
    onnx.save(made, folder / "model.onnx")
    shard(folder / "model.onnx", folder / "parts", "tp=2")
    return folder / "parts"


def test_a_directory_states_its_order_unless_its_ranks_contradict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, made = sharded(tmp_path), tmp_path / "ordered"
    assert main(["order", str(parts), "-o", str(made), "--annotation"]) == 0
    effects = [n for n in onnx.load(made / "rank1.onnx").graph.node if is_effect(n)]
    assert list(map(place_of, effects)) == [(1, 2), (2, 2)]
    assert main(["check", str(made)]) == 0
    one = onnx.load(made / "rank1.onnx")
    for node, place in zip((n for n in one.graph.node if is_effect(n)), (2, 1), strict=True):
        set_place(node, Place(place))
    set_seal(one, None)
    onnx.save(one, made / "rank1.onnx")
    capsys.readouterr()
    assert main(["order", str(made), "-o", str(tmp_path / "new"), "--tokens"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "rank 1, AllReduce" in error and "another order" in error
    assert not (tmp_path / "new").exists()


def test_what_has_no_order_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(model("y = Neg(x)"), path)
    assert main(["order", str(path), "-o", str(tmp_path / "new.onnx"), "--plain"]) == 2
    assert "expected a model that communicates" in capsys.readouterr().err
    assert main(["order", str(path), "-o", str(tmp_path / "new.onnx")]) == 2
    assert "one of the arguments --tokens --annotation --plain" in capsys.readouterr().err
