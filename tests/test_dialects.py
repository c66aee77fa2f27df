"""Models in other dialects, read and run as they are, against numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from dialect_cases import CASES, check, dist
from onnx import helper, numpy_helper, parser
from sessions import Array, operand, operands, run

from rankwise.collectives import local
from rankwise.models.dialects.translation import translated
from rankwise.models.errors import ModelError
from rankwise.models.opset import is_ours
from rankwise.models.plan import build_plan, communicates

FLOAT = "(float[n,m] x) => (float[a,b] y)"


def model(body: str, ends: str = FLOAT, imports: str = '"" : 20', **weights: Any) -> Any:
    """A graph; the domains of its operators are not imported unless `imports` does."""
    made = parser.parse_model(
        f"<ir_version: 10, opset_import: [{imports}]>\n g {ends} {{ {body} }}"
    )
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CASES)
def test_a_collective_of_another_dialect_gives_what_numpy_gives(name: str, size: int) -> None:
    local.run(size, partial(check, name=name), timeout=60)


@pytest.mark.parametrize("size", [2, 4])
def test_elements_are_cut_in_the_order_in_which_they_lie(size: int) -> None:
    made = model(f"y = com.microsoft.AllToAll<group_size={size}>(x)")
    xs = operands(size, 3, 4)
    for rank, (y,) in enumerate(run(size, made, lambda rank: {"x": xs[rank]})):
        parts = [np.split(x.ravel(), size)[rank] for x in xs]
        np.testing.assert_array_equal(y, np.concatenate(parts).reshape(3, 4))


def test_each_of_several_tensors_is_reduced() -> None:
    made = model("h = Neg(x) a, y = com.microsoft.AllReduce(h, x)", "(float[n,m] x) => (a, y)")
    total = sum(operands(3))
    for a, y in run(3, made):
        np.testing.assert_array_equal(a, -total)
        np.testing.assert_array_equal(y, total)


def test_pieces_come_apart() -> None:
    made = model("a, b, c = AllGather(x)", "(float[2,3] x) => (float[2,3] a, b, c)")
    for pieces in run(3, made):
        np.testing.assert_array_equal(pieces, operands(3))


def test_a_list_of_ranks_is_a_group_in_its_order() -> None:
    text = dist("all_gather", nb_rank=4, group_size=2).replace("<", "<groups=[3, 1], ")
    on_0 = dist("all_gather", nb_rank=4, group_size=2).replace("<", "<groups=[0, 2], ")
    results = run(4, lambda rank: model(f"y = {text if rank % 2 else on_0}"))
    xs = operands(4)
    for rank, (y,) in enumerate(results):
        first, second = ((0, 2), (3, 1))[rank % 2]
        np.testing.assert_array_equal(y, np.concatenate([xs[first], xs[second]]))


MESSAGES = {
    "ort-training": (
        "s = com.microsoft.Send<tag=3, element_types=[1]>(go, one, x)",
        "s, y = com.microsoft.Recv<tag=3, element_types=[1]>(go, zero)",
    ),
    "working-group": ("s = TensorSend<tag=1>(x, one)", "y = TensorRecv<tag=1, dtype=1>(zero)"),
    "infinitensor": (
        "s = Send<source=0, destination=1>(x)",
        "y = Recv<source=0, destination=1, dataType=1, shape=[2,3]>()",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_another_dialect_arrives(name: str) -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        body = MESSAGES[name][rank] + (" y = Neg(x)" if rank == 0 else "")
        made = model(body, zero=np.int64(0), one=np.int64(1), go=np.array(True))
        if name != "ort-training" and rank == 0:
            del made.graph.node[0].output[:]  # theirs give nothing
        return made

    (first,), (second,) = run(2, of_rank)
    np.testing.assert_array_equal(first, -operand(0))
    np.testing.assert_array_equal(second, operand(0))


def test_signals_order_messages_of_several_tensors() -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        ends = "(float[n,m] x, bool go) => (a, b, bool done)"
        if rank == 0:
            return model(
                "h = Neg(x) done = com.microsoft.Send<tag=0, element_types=[1, 1]>(go, one, x, h)"
                "a = Identity(x) b = Identity(h)",
                ends,
                one=np.int64(1),
            )
        return model(
            "done, a, b = com.microsoft.Recv<tag=0, element_types=[1, 1]>(go, zero)",
            ends,
            zero=np.int64(0),
        )

    made = translated(of_rank(0))
    first, second = (node for node in made.graph.node if is_ours(node))
    assert (list(first.input), list(second.input)[2:]) == (["x", "one", "go"], list(first.output))
    feeds = {"x": operand(0), "go": np.array(True)}
    for a, b, done in run(2, of_rank, lambda rank: feeds):
        np.testing.assert_array_equal(a, operand(0))
        np.testing.assert_array_equal(b, -operand(0))
        assert done


OWNED = "(float[40] p, float[20] q, float[2] r) => (a, b, c)"


@pytest.mark.parametrize("name", ["NcclAllGather", "NcclReduceScatter"])
def test_tensors_laid_end_to_end_have_owners(name: str) -> None:
    made = model(f"a, b, c = com.microsoft.{name}(p, q, r)", OWNED)
    # 62 elements over 2 ranks, padded to 64: p and q would cross, so p lies on rank 0 alone.
    with pytest.raises(ModelError, match="'p' to lie in one rank's part of 32 elements"):
        run(2, made, lambda rank: {})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
    owners = [0, 1, 1]

    def feeds(rank: int) -> dict[str, Array]:
        return {"p": operand(rank, 32), "q": operand(rank, 20), "r": operand(rank, 2)}

    for rank, outputs in enumerate(run(2, made, feeds)):
        for key, owner, got in zip("pqr", owners, outputs, strict=True):
            mine, other = feeds(rank)[key], feeds(1 - rank)[key]
            if name == "NcclAllGather":
                expected = feeds(owner)[key]
            else:
                expected = mine + other if rank == owner else mine
            np.testing.assert_array_equal(got, expected)


def test_bodies_and_functions_are_rewritten_too() -> None:
    made = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20, "local" : 1, ".com.microsoft" : 1]>
        g (float[n,m] x) => (float[n,m] y) { y = local.TensorAllScatterReduce(x) }
        <domain: "local", opset_import: ["" : 20]>
        TensorAllScatterReduce (x) => (y) {
            a = TensorAllReduce(x)
            y = com.microsoft.AllReduce(a)
        }
    """)
    for (y,) in run(2, made):
        np.testing.assert_array_equal(y, 2 * sum(operands(2)))


def test_operators_of_ai_onnx_with_the_same_name_are_left_alone() -> None:
    ends = "(float[1,1,4,2] x, float[1,1,1,2] u) => (y)"
    made = model("y = TensorScatter(x, u)", ends, '"" : 24')
    assert not communicates(made)
    assert not communicates(model("y = ReduceSum(x)"))
    assert translated(made) is made


@pytest.mark.parametrize("imports", ['"" : 18, ".com.microsoft" : 1', '"" : 18'])
def test_imports_may_be_missing_or_misspelt(imports: str) -> None:
    made = model("h = Gelu(x) y = com.microsoft.AllReduce(x)", imports=imports)
    made.graph.node[0].domain = "com.microsoft"
    for (y,) in run(2, made):
        np.testing.assert_array_equal(y, sum(operands(2)))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("com.microsoft.AllGather<group_size=4>(x)", r"'y'.*ranks below 2, got \[0, 1, 2, 3\]"),
        ("com.microsoft.AllGather(x)", r"rank 1 is in none of the groups \[0\]"),
        ("com.microsoft.AllReduce<axis=1>(x)", r"of ort: expected attributes among \[\], got"),
        ("com.microsoft.ShardedMoE(x, x, x)", "expected local_experts_start_index with the first"),
        ("com.microsoft.NcclAllReduce<group_type=2>(x)", r"group_type among \[0, 1, 4\], got 2"),
        ("com.microsoft.NcclAllReduce<group_type=1>(x)", "axis of a mesh, got 'dp' and no"),
        ("com.microsoft.NcclAllGather(x)", "expected a known number of ranks and shapes in full"),
        (dist("all_sum", nb_rank=2), "='scatter', got 1 inputs and .*='all_sum'"),
        (dist("all_reduce", reduce_op="xor", nb_rank=2), "reduce_op among .*'avg'.*, got 'xor'"),
        (dist("all_gather", group_size=2, nb_rank=3), r"expected one number .*, got \[2, 3\]"),
        ('TensorAllReduce<op="sum">(x)', r"among \['reduction'\], got \['op'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(node: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        run(2, model(f"y = {node}"))
    assert "\n" not in str(caught.value)


def test_a_plan_of_another_dialect_is_that_of_ours() -> None:
    theirs = build_plan(model("a = Neg(x) y = com.microsoft.AllReduce(a)"))
    ours = build_plan(model("a = Neg(x) y = rankwise.AllReduce(a)"))
    assert theirs.instructions == ours.instructions


def test_numbers_of_ranks_are_left_out_where_they_are_all() -> None:
    made = model("y = com.microsoft.AllGather<group_size=2>(x)")
    names = {entry.name for entry in translated(made, 2).graph.node[0].attribute}
    assert names == {"dim"}
    assert helper.get_node_attr_value(translated(made, 3).graph.node[0], "groups") == [0, 1]
