"""Sessions on graphs that communicate, written by hand, against numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sessions import Array, model, operand, run

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.errors import ModelError
from rankwise.runtime.execute import NodeError


@pytest.mark.parametrize("size", [1, 2, 3])
def test_allreduce_between_fragments(size: int) -> None:
    made = model("a = Mul(x, two) b = rankwise.AllReduce(a) y = Sub(b, x)", two=np.float32(2))
    total = sum(2 * operand(rank) for rank in range(size))
    for rank, (y,) in enumerate(run(size, made)):
        np.testing.assert_array_equal(y, total - operand(rank))


def test_the_operand_of_an_allreduce_that_is_read_again_is_not_overwritten() -> None:
    made = model("a = Neg(x) b = rankwise.AllReduce(a) y = Sub(b, a)")
    for rank, (y,) in enumerate(run(2, made)):
        np.testing.assert_array_equal(y, -operand(0) - operand(1) + operand(rank))


def test_feeds_and_weights_are_never_overwritten() -> None:
    made = model(
        "y = rankwise.AllReduce(x) z = rankwise.AllReduce(w)",
        "(float[n,m] x) => (float[n,m] y, float[2] z)",
        w=np.ones(2, np.float32),
    )
    mine = [operand(rank) for rank in range(2)]
    for y, z in run(2, made, lambda rank: {"x": mine[rank]}):
        np.testing.assert_array_equal(y, operand(0) + operand(1))
        np.testing.assert_array_equal(z, [2, 2])
    np.testing.assert_array_equal(mine, [operand(0), operand(1)])


CASES: dict[str, tuple[str, Callable[[Sequence[Array], int], Array]]] = {
    "allreduce max": ('AllReduce<op="max">(h)', lambda xs, rank: np.max(xs, axis=0)),
    "allreduce by name": (
        'AllReduce<algorithm="ring">(h)',
        lambda xs, rank: np.sum(xs, axis=0),
    ),
    "allgather": ("AllGather<dim=1>(h)", lambda xs, rank: np.concatenate(xs, 1)),
    "reduce scatter": (
        "ReduceScatter<dim=1>(h)",
        lambda xs, rank: np.array_split(np.sum(xs, axis=0), 3, 1)[rank],
    ),
    "all to all": (
        "AllToAll<split_dim=1, concat_dim=0>(h)",
        lambda xs, rank: np.concatenate([np.array_split(x, 3, 1)[rank] for x in xs], 0),
    ),
    "broadcast": ("Broadcast<root=2>(h)", lambda xs, rank: xs[2]),
    "scatter": (
        "Scatter<root=1, dim=1>(h)",
        lambda xs, rank: np.array_split(xs[1], 3, 1)[rank],
    ),
    "gather": (
        "Gather<root=1>(h)",
        lambda xs, rank: np.concatenate(xs) if rank == 1 else np.empty((0, 4), np.float32),
    ),
    "reduce": (
        'Reduce<root=1, op="prod">(h)',
        lambda xs, rank: np.prod(xs, axis=0) if rank == 1 else xs[rank],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_collective_gives_what_numpy_gives(name: str) -> None:
    node, expected = CASES[name]
    made = model(f"h = Neg(x) g = rankwise.{node} y = Neg(g)")
    given = [operand(rank, 2, 4) for rank in range(3)]
    for rank, (y,) in enumerate(run(3, made, lambda rank: {"x": given[rank]})):
        np.testing.assert_array_equal(y, -expected([-x for x in given], rank))


def test_parts_of_different_length_are_gathered() -> None:
    made = model("y = rankwise.AllGather(x)")
    for (y,) in run(3, made, lambda rank: {"x": operand(rank, rank, 2)}):
        np.testing.assert_array_equal(y, np.concatenate([operand(r, r, 2) for r in range(3)]))


def test_send_before_receive_around_a_ring_does_not_block() -> None:
    made = model(
        """
        r = rankwise.Rank() p = rankwise.Size()
        right0 = Add(r, one) right = Mod(right0, p) left0 = Add(r, p) left1 = Sub(left0, one)
        left = Mod(left1, p)
        h = Neg(x)
        token = rankwise.Send(h, right)
        h2 = rankwise.AllReduce(h, token)
        got = rankwise.Recv<dtype=1>(left)
        y = Sub(got, h2)
        """,
        one=np.int64(1),
    )
    total = sum(operand(rank) for rank in range(3))
    for rank, (y,) in enumerate(run(3, made)):
        np.testing.assert_array_equal(y, -operand((rank - 1) % 3) + total)


def test_ranks_may_run_different_graphs() -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        if rank == 0:
            return model("a = Neg(x) t = rankwise.Send<tag=7>(a, one) y = Neg(a)", one=np.int64(1))
        return model(
            "a = rankwise.Recv<dtype=1, shape=[2,3], tag=7>(zero) y = Add(a, x)", zero=np.int64(0)
        )

    (first,), (second,) = run(2, of_rank)
    np.testing.assert_array_equal(first, operand(0))
    np.testing.assert_array_equal(second, operand(1) - operand(0))


def test_an_operand_may_be_absent_where_a_rank_contributes_nothing() -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        operand = "x" if rank == 1 else '""'
        return model(
            f"a = rankwise.Broadcast<root=1, dtype=1>({operand}) t = rankwise.Barrier() "
            f"y = rankwise.Scatter<root=1, dim=1, dtype=1>({operand}, t) z = Neg(a)",
            "(float[n,m] x) => (float[a,b] y, float[n,m] z)",
        )

    for rank, (y, z) in enumerate(run(2, of_rank)):
        np.testing.assert_array_equal(y, np.array_split(operand(1), 2, 1)[rank])
        np.testing.assert_array_equal(z, -operand(1))


def test_a_received_tensor_of_another_shape_is_an_error_that_names_the_node() -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        if rank == 0:
            return model("t = rankwise.Send(x, one) y = Neg(x)", one=np.int64(1))
        return model("y = rankwise.Recv<dtype=1, shape=[5, 3]>(zero)", zero=np.int64(0))

    expected = r"rank 1, Recv .* expected float32 \(5, 3\) of rank 0, got float32 \(2, 3\)"
    with pytest.raises(NodeError, match=expected):
        run(2, of_rank)


def test_groups_by_list_and_by_axis_of_the_mesh() -> None:
    made = model(
        """
        a = rankwise.AllReduce<groups=[0,3,1,2], group_size=2>(x)
        b = rankwise.AllReduce<axis_name="tp">(x)
        c = rankwise.AllReduce<axis_name="pp">(x)
        r0 = rankwise.Rank<groups=[3,2,1,0], group_size=2>() r = Cast<to=1>(r0)
        """,
        "(float[n,m] x) => (float[n,m] a, float[n,m] b, float[n,m] c, float r)",
    )
    helper.set_model_props(made, {"rankwise.mesh": "pp=2,tp=2"})
    xs = [operand(rank) for rank in range(4)]
    for rank, (a, b, c, r) in enumerate(run(4, made)):
        np.testing.assert_array_equal(a, xs[rank] + xs[3 - rank])
        np.testing.assert_array_equal(b, xs[rank] + xs[rank ^ 1])
        np.testing.assert_array_equal(c, xs[rank] + xs[rank ^ 2])
        assert r == [1, 0, 1, 0][rank]


def test_the_mesh_of_a_graph_without_one_is_an_argument() -> None:
    made = model('y = rankwise.AllReduce<axis_name="tp">(x)').SerializeToString()

    def on_rank(comm: Communicator) -> Array:
        with rankwise.InferenceSession(made, comm=comm, mesh={"pp": 2, "tp": 1}) as session:
            return session.run(None, {"x": operand(comm.rank)})[0]

    np.testing.assert_array_equal(local.run(2, on_rank), [operand(0), operand(1)])


def test_an_axis_without_a_mesh_is_an_error_on_every_rank() -> None:
    with pytest.raises(ModelError, match="axis of a mesh, got 'tp' and no"):
        run(2, model('y = rankwise.AllReduce<axis_name="tp">(x)'))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.INT8, np.int8),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.UINT64, np.uint64),
    ],
)
def test_every_element_type_goes_through_fragments_and_collectives(kind: int, dtype: Any) -> None:
    made = model(
        f"a = Cast<to={kind}>(x) b = Identity(a) c = rankwise.AllReduce(b) y = Identity(c)",
        "(float[n,m] x) => (y)",
    )
    for (y,) in run(2, made, lambda rank: {"x": np.abs(operand(rank))}):
        assert y.dtype == np.dtype(dtype)
        total = np.abs(operand(0)) + np.abs(operand(1))
        np.testing.assert_array_equal(y.astype(np.float32), total)


def test_bool_scalar_and_empty_tensors_go_through() -> None:
    made = model(
        'c = Greater(x, zero) y = rankwise.AllReduce<op="lor">(c) s = ReduceSum<keepdims=0>(x) '
        "z = rankwise.AllReduce(s)",
        "(float[n,m] x) => (bool[n,m] y, float z)",
        zero=np.float32(0),
    )
    for y, z in run(2, made):
        np.testing.assert_array_equal(y, (operand(0) > 0) | (operand(1) > 0))
        assert z == operand(0).sum() + operand(1).sum()
    for y, z in run(2, made, lambda rank: {"x": np.empty((0, 3), np.float32)}):
        assert (y.shape, z) == ((0, 3), 0)


def test_sequences_and_strings_cross_fragments() -> None:
    made = model(
        """
        s = SequenceConstruct(x, x) u = StringConcat(t, t) g = rankwise.AllReduce(x)
        e = SequenceAt(s, zero) y = Add(e, g) w0 = Cast<to=8>(g) w = Identity(u)
        """,
        "(float[n,m] x, string[k] t) => (float[n,m] y, string[k] w)",
        zero=np.int64(0),
    )
    words = np.array(["a", "b"], object)
    for rank, (y, w) in enumerate(run(2, made, lambda r: {"x": operand(r), "t": words})):
        np.testing.assert_array_equal(y, operand(0) + operand(1) + operand(rank))
        assert w.tolist() == ["aa", "bb"]


def test_an_input_that_nothing_reads_is_fed_all_the_same() -> None:
    made = model("y = Neg(x)", "(float[n,m] x, float[n] unread) => (float[n,m] y)")
    feeds = {"x": operand(0), "unread": np.ones(2, np.float32)}
    for (y,) in run(1, made, lambda rank: feeds):
        np.testing.assert_array_equal(y, -operand(0))


def test_outputs_that_are_inputs_weights_and_results_work_and_are_the_callers_own() -> None:
    made = model(
        "y = rankwise.Broadcast(x)",
        "(float[n,m] x) => (float[n,m] x, float[2] w, float[n,m] y)",
        w=np.ones(2, np.float32),
    )
    given = operand(1)
    x, w, y = run(1, made, lambda rank: {"x": given})[0]
    assert not np.shares_memory(x, given)
    np.testing.assert_array_equal(x, given)
    np.testing.assert_array_equal(y, given)
    assert w.tolist() == [1, 1]


def test_the_latest_run_is_accounted_for() -> None:
    body = "a = Neg(x) b = rankwise.AllReduce(a) y = rankwise.AllReduce(b)"
    made = model(body, "(float[8,16] x) => (float[8,16] y)")

    def on_rank(comm: Communicator) -> tuple[int, int]:
        with rankwise.InferenceSession(made.SerializeToString(), comm=comm) as session:
            session.run(None, {"x": operand(0, 8, 16)})
            session.run(None, {"x": operand(0, 8, 16)})
            assert session.trace.compute_seconds > 0
            cost = session.trace.operators["AllReduce"]
            assert 0 < cost.seconds == session.trace.communication_seconds
            return cost.count, session.trace.bytes_sent

    assert local.run(2, on_rank) == [(2, 1024), (2, 1024)]


def test_a_run_that_onnxruntime_refuses_names_the_rank() -> None:
    made = model("y = Reshape(x, s)", s=np.array([5, 5]))
    with pytest.raises(NodeError, match=r"rank 0 on float32 \(2, 3\): .*Reshape"):
        run(1, made)


def test_operators_without_an_imported_domain_are_run() -> None:
    made = model("y = Gelu(x)")
    made.graph.node[0].domain = "com.microsoft"
    made.graph.node.append(helper.make_node("AllReduce", ["y"], ["z"], domain="rankwise"))
    made.graph.output.append(onnx.ValueInfoProto(name="z"))
    y, z = run(1, made)[0]
    np.testing.assert_array_equal(y, z)


def test_a_model_may_do_without_the_operators_of_onnx() -> None:
    made = model("z = rankwise.AllReduce(x) y = .Gelu(z)")
    kept = [each for each in made.opset_import if each.domain]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    for (y,) in run(2, made, lambda rank: {"x": np.full((2, 3), 50 * rank, np.float32)}):
        np.testing.assert_array_equal(y, np.full((2, 3), 50))
