"""Collectives as functions over Send and Recv: literally, natively, and as numpy has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.collectives.table import TABLE
from rankwise.models.errors import ModelError
from rankwise.models.functions import lower, native
from rankwise.models.functions.lowering import COLLECTIVES
from rankwise.models.functions.ring import ring_function
from rankwise.models.groups import members
from rankwise.models.mesh import Mesh
from rankwise.models.plan import build_plan
from rankwise.models.plan.seal import set_seal

Array = np.ndarray[Any, np.dtype[Any]]

BY_MESSAGES = [
    (op_type, name)
    for op_type, collective in COLLECTIVES.items()
    for name, entry in TABLE[collective].items()
    if not entry.shared
]

NODES = {
    "AllReduce": "y, t = rankwise.AllReduce(h)",
    "AllGather": "y, t = rankwise.AllGather<dim=-1>(h)",
    "ReduceScatter": "y, t = rankwise.ReduceScatter<dim=1>(h)",
    "AllToAll": "y, t = rankwise.AllToAll<split_dim=1, concat_dim=0>(h)",
    "Broadcast": "y, t = rankwise.Broadcast<root=ROOT>(h)",
    "Scatter": "y, t = rankwise.Scatter<root=ROOT, dim=1>(h)",
    "Gather": "y, t = rankwise.Gather<root=ROOT, dim=1>(h)",
    "Reduce": "y, t = rankwise.Reduce<root=ROOT>(h)",
    "Barrier": "t = rankwise.Barrier() y = Identity(h)",
}


def model(body: str, ends: str = "(float[n,m] x) => (float[a,b] z)") -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    return parser.parse_model(f"{header} g {ends} {{ {body} }}")


def place(rank: int, size: int, mesh: Mesh | None = None) -> Callable[..., tuple[int, int]]:
    def of(attributes: Any) -> tuple[int, int]:
        ranks = members(attributes, mesh, rank, size)
        return ranks.index(rank), len(ranks)

    return of


def operand(rank: int, *shape: int) -> Array:
    return np.random.default_rng(rank).standard_normal(shape or (3, 5)).astype(np.float32)


def run(
    size: int,
    made: Callable[[int], onnx.ModelProto],
    feed: Callable[[int], Array] = operand,
    functions: Any = "literal",
) -> list[list[Array]]:
    """The outputs of every rank."""

    def on_rank(comm: Communicator) -> list[Array]:
        source = made(comm.rank).SerializeToString()
        with rankwise.InferenceSession(source, comm=comm, functions=functions) as session:
            return session.run(None, {"x": feed(comm.rank)})

    return local.run(size, on_rank, timeout=60)


def expected(op_type: str, xs: list[Array], rank: int, root: int) -> Array:
    """What numpy makes of the operands of all ranks."""
    size, x = len(xs), xs[rank]
    of_rank: dict[str, Callable[[], Array]] = {
        "AllReduce": lambda: np.sum(xs, axis=0),
        "AllGather": lambda: np.concatenate(xs, -1),
        "ReduceScatter": lambda: np.array_split(np.sum(xs, axis=0), size, 1)[rank],
        "AllToAll": lambda: np.concatenate([np.array_split(o, size, 1)[rank] for o in xs]),
        "Broadcast": lambda: xs[root],
        "Scatter": lambda: np.array_split(xs[root], size, 1)[rank],
        "Gather": lambda: np.concatenate(xs, 1) if rank == root else x[:, :0],
        "Reduce": lambda: np.sum(xs, axis=0) if rank == root else x,
        "Barrier": lambda: x,
    }
    return of_rank[op_type]()


@pytest.mark.parametrize(("op_type", "algorithm"), BY_MESSAGES)
@pytest.mark.parametrize("sizes", [(1, 3), pytest.param((2, 4, 5), marks=pytest.mark.slow)])
def test_a_lowered_schedule_gives_what_numpy_and_the_operator_give(
    op_type: str, algorithm: str, sizes: tuple[int, ...]
) -> None:
    for size in sizes:
        root = size - 1
        node = NODES[op_type].replace("ROOT", str(root))
        source = model(f"h = Neg(x) {node} z = Neg(y)")

        def made(rank: int) -> onnx.ModelProto:
            return lower(source, {op_type: algorithm}, place(rank, size))  # noqa: B023

        assert not [n for n in made(0).graph.node if n.op_type == op_type]
        literal, natively = run(size, made), run(size, made, functions="native")
        given = [operand(rank) for rank in range(size)]
        for rank in range(size):
            wanted = expected(op_type, given, rank, root)
            np.testing.assert_array_equal(literal[rank][0], natively[rank][0])
            np.testing.assert_allclose(literal[rank][0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5), (0, 4)])
def test_the_ring_has_the_bits_of_the_schedule_whatever_the_shape(
    size: int, shape: tuple[int, ...]
) -> None:
    dims = ",".join("abc"[: len(shape)])
    source = model("z = rankwise.AllReduce(x)", f"(float[{dims}] x) => (float[{dims}] z)")
    made = lower(source, {"AllReduce": "ring"}, None)
    given = [np.asarray(operand(rank, 30).ravel()[: int(np.prod(shape))]) for rank in range(size)]
    feeds = [array.reshape(shape) for array in given]
    literal = run(size, lambda rank: made, lambda rank: feeds[rank])
    rings = local.run(size, lambda comm: comm.allreduce(feeds[comm.rank], algorithm="ring"))
    for (y,), ring in zip(literal, rings, strict=True):
        assert y.shape == shape
        np.testing.assert_array_equal(y, ring)


OPERATIONS = [
    ("sum", "float16"), ("prod", "float64"), ("max", "int64"), ("min", "uint8"),
    ("mean", "float32"), ("band", "int32"), ("bxor", "int64"), ("lor", "bool"), ("land", "bool"),
]  # fmt: skip


@pytest.mark.parametrize("algorithm", ["ring", "recursive_doubling", "segmented_ring"])
@pytest.mark.parametrize(("op", "dtype"), OPERATIONS)
def test_reductions_are_those_of_the_operator(op: str, dtype: str, algorithm: str) -> None:
    kind = {"float64": "double", "float32": "float"}.get(dtype, dtype)
    ends = f"({kind}[n] x) => ({kind}[n] z)"
    source = model(f'z = rankwise.AllReduce<op="{op}">(x)', ends)
    feeds = [np.random.default_rng(rank).integers(0, 3, 10).astype(dtype) for rank in range(3)]

    def made(rank: int) -> onnx.ModelProto:
        return lower(source, {"AllReduce": algorithm}, place(rank, 3))

    literal = run(3, made, lambda rank: feeds[rank])
    natively = local.run(
        3, lambda comm: comm.allreduce(feeds[comm.rank], op=op, algorithm=algorithm)
    )
    for (y,), wanted in zip(literal, natively, strict=True):
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, wanted)


def test_groups_axes_and_tokens_are_kept() -> None:
    body = """
        t0 = rankwise.Barrier() t1 = rankwise.Barrier(t0)
        a, t2 = rankwise.AllReduce<axis_name="dp">(x, t0, t1)
        b, t3 = rankwise.AllGather<groups=[1,0,3,2], group_size=2>(a, t2)
        z = rankwise.AllReduce<groups=[3,2,1,0], group_size=2, op="max">(b, t3)
    """
    source = model(body)
    source.metadata_props.add(key="rankwise.mesh", value="dp=2,tp=2")
    mesh = Mesh.parse("dp=2,tp=2")
    chosen = {"AllReduce": "ring", "AllGather": "bruck", "Barrier": "dissemination"}
    given = [operand(rank) for rank in range(4)]
    wanted = run(4, lambda rank: source, lambda rank: given[rank])
    for functions in ("literal", "native"):
        found = run(
            4,
            lambda rank: lower(source, chosen, place(rank, 4, mesh)),
            lambda rank: given[rank],
            functions,
        )
        np.testing.assert_array_equal(found, wanted)


def test_collectives_in_bodies_are_lowered_there_and_swapped_back() -> None:
    body = """
        n = rankwise.Size()
        z = Loop (n, , x) <body = b (int64 i, bool go, float[n,m] v) => (bool on, float[n,m] w) {
            on = Identity(go) w = rankwise.AllReduce<op="max">(v) }>
    """
    source = model(body)
    made = lower(source, {"AllReduce": "tree"}, place(1, 3))
    assert [c.op for c in build_plan(made).communications[1:]] == ["Send", "Recv"]
    back = build_plan(native(made, place(1, 3))).communications
    assert [(c.op, c.attributes.get("algorithm")) for c in back[1:]] == [("AllReduce", "tree")]
    given = [operand(rank) for rank in range(3)]
    found = run(3, lambda rank: lower(source, {"AllReduce": "tree"}, place(rank, 3)))
    for (z,) in found:
        np.testing.assert_array_equal(z, np.max(given, axis=0))


def test_parts_of_different_length_travel_with_their_shapes() -> None:
    source = model("z = rankwise.AllGather(x)")
    for algorithm in ("bruck", "tree", "ring"):
        found = run(
            3,
            lambda rank: lower(source, {"AllGather": algorithm}, place(rank, 3)),  # noqa: B023
            lambda rank: operand(rank, rank, 2),
        )
        for (z,) in found:
            np.testing.assert_array_equal(z, np.concatenate([operand(r, r, 2) for r in range(3)]))


def test_a_function_that_was_changed_is_run_as_it_is_written() -> None:
    source = model("z = rankwise.AllReduce(x)")

    def made(rank: int) -> onnx.ModelProto:
        lowered = lower(source, {"AllReduce": "recursive_doubling"}, place(rank, 2))
        (add,) = [n for f in lowered.functions for n in f.node if n.op_type == "Add"]
        add.op_type = "Mul"
        return lowered

    for (z,) in run(2, made, functions="native"):
        np.testing.assert_array_equal(z, operand(0) * operand(1))


@pytest.mark.parametrize("functions", ["native", "literal"])
def test_the_function_of_another_place_is_refused(functions: str) -> None:
    source = model("z = rankwise.AllReduce(x)")
    with pytest.raises(ModelError, match="part of rank 0 of 4, but this is rank 0 of 2; lower"):
        run(2, lambda rank: lower(source, {"AllReduce": "tree"}, place(rank, 4)),
            functions=functions)  # fmt: skip


def test_a_ring_that_is_told_another_place_stays_as_it_is_written() -> None:
    made = lower(model("z = rankwise.AllReduce<groups=[0, 1]>(x)"), {"AllReduce": "ring"}, None)
    (call,) = [node for node in made.graph.node if node.op_type == "RingAllReduceSum"]
    assert [c.op for c in build_plan(native(made, place(0, 2))).communications] == ["AllReduce"]
    groups = next(entry for entry in call.attribute if entry.name == "groups")
    groups.ints[:] = [1, 0]  # of which its Rank and Size know nothing
    set_seal(made, None)
    assert "Send" in [c.op for c in build_plan(native(made, place(0, 2))).communications]


WRONG: dict[str, tuple[str, dict[str, str], str]] = {
    "memory": ("z = rankwise.AllReduce(x)", {"AllReduce": "one_shot"}, "reads the memory of"),
    "name": ("z = rankwise.AllReduce(x)", {"AllReduce": "bruck"}, "expected an algorithm of All"),
    "operator": ("z = rankwise.AllReduce(x)", {"Send": "ring"}, "expected collectives of AllRed"),
    "root": ("z = rankwise.Reduce<root=5>(x)", {"Reduce": "tree"}, "expected a root below 2"),
    "logic": ('z = rankwise.AllReduce<op="lor">(x)', {"AllReduce": "tree"}, "expected bool for"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_lowered_says_why(name: str) -> None:
    body, chosen, message = WRONG[name]
    with pytest.raises(ModelError, match=message):
        lower(model(body), chosen, place(0, 2))


def test_all_but_the_ring_need_a_number_of_ranks() -> None:
    with pytest.raises(ModelError, match="another function on each rank; expected"):
        lower(model("z = rankwise.AllReduce(x)"), {"AllReduce": "tree"}, None)


@pytest.mark.parametrize("explicit", [False, True])
def test_rank_and_size_may_be_told_from_outside(explicit: bool) -> None:
    numbers = "" if explicit else "rank = rankwise.Rank() size = rankwise.Size()"
    ends = "(float[n,m] x, int64 rank, int64 size) => (float[a,b] z)"
    source = model(
        f"{numbers} z = rankwise.functions.RingAllReduceSum<dtype=1>(rank, size, x)",
        ends if explicit else "(float[n,m] x) => (float[a,b] z)",
    )
    source.functions.append(ring_function("sum", 20))

    def on_rank(comm: Communicator) -> Array:
        told = {"rank": np.array(comm.rank), "size": np.array(comm.size)}
        feeds = {"x": operand(comm.rank), **(told if explicit else {})}
        with rankwise.InferenceSession(source.SerializeToString(), comm=comm) as session:
            return session.run(None, feeds)[0]

    rings = local.run(3, lambda comm: comm.allreduce(operand(comm.rank), algorithm="ring"))
    np.testing.assert_array_equal(local.run(3, on_rank), rings)


def test_functions_pass_the_checker() -> None:
    made = lower(model("z = rankwise.AllReduce(x)"), {"AllReduce": "ring"}, None)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.checker.check_model(made)
