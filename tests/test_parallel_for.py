"""ParallelFor: one model for all ranks, and what comes back, against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import sessions
from sessions import Feeds, run

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import ModelError
from rankwise.runtime.execute import NodeError
from rankwise.runtime.timeline import Timeline, table, timeline
from rankwise.runtime.trace import Cost

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(
    body: str, ends: str = "(float[n,m] x, int64 count) => (float[a,b] y)"
) -> onnx.ModelProto:
    return sessions.model(body, ends)


def counted(count: int) -> Callable[[int], Feeds]:
    return lambda rank: {"x": X, "count": np.array(count)}


SCALED = """
    y = rankwise.ParallelFor <returns = "RETURNS", dim = DIM,
        body = b (int64 id, float[n,m] v) => (float[n,m] p) {
            one = Constant<value_int=1>() k = Add(id, one) f = Cast<to=1>(k) p = Mul(v, f) }>
        (count, x)
"""


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("dim", [0, -1])
def test_results_are_concatenated_in_the_order_of_ids(size: int, count: int, dim: int) -> None:
    made = model(SCALED.replace("RETURNS", "concat").replace("DIM", str(dim)))
    for (y,) in run(size, made, counted(count)):
        np.testing.assert_array_equal(y, np.concatenate([X * (k + 1) for k in range(count)], dim))


@pytest.mark.parametrize(("size", "count"), [(1, 3), (3, 3), (3, 1), (2, 5)])
def test_first_gives_every_rank_the_result_of_id_0(size: int, count: int) -> None:
    made = model(SCALED.replace("RETURNS", "first").replace("DIM", "0"))
    found = run(size, made, lambda rank: {"x": X + rank, "count": np.array(count)})
    for (y,) in found:
        np.testing.assert_array_equal(y, X)


@pytest.mark.parametrize(
    ("returns", "op", "rows"), [("concat", "AllGather", 6), ("first", "Broadcast", 2)]
)
def test_sharing_results_is_traced_as_the_collective_that_it_is(
    returns: str, op: str, rows: int
) -> None:
    made = model(SCALED.replace("RETURNS", returns).replace("DIM", "0")).SerializeToString()

    def on_rank(comm: Communicator) -> tuple[Timeline | None, dict[str, Cost], int]:
        with InferenceSession(made, comm=comm) as session:
            session.is_traced = True
            session.run(None, counted(3)(comm.rank))
            assert session.trace.spans is not None
            trace = session.trace
            return timeline(comm, trace.spans), trace.operators, trace.bytes_sent

    results = local.run(3, on_rank, timeout=60)
    assert all(set(costs) == {op} and costs[op].count == 1 for _, costs, _ in results)
    # Each rank but the one that made it has to get what has been made.
    assert sum(sent for *_, sent in results) >= 2 * rows * X.itemsize * X.shape[1]
    line = results[0][0]
    assert line is not None
    (call,) = line.calls
    assert (call.op, call.size, len(call.parts)) == (op, rows * X.itemsize * X.shape[1], 3)
    assert table(line).splitlines()[1].split()[0] == op


def test_each_rank_has_its_number_as_id_where_there_are_as_many() -> None:
    body = """
        count = rankwise.Size()
        y = rankwise.ParallelFor <returns = "concat", body = b (int64 id) => (int64[2] p) {
            r = rankwise.Rank() axis = Constant<value_ints=[0]>()
            a = Unsqueeze(id, axis) b = Unsqueeze(r, axis) p = Concat<axis=0>(a, b) }> (count)
    """
    made = model(body, "() => (int64[n] y)")
    for (y,) in run(3, made, lambda rank: {}):
        np.testing.assert_array_equal(y, [0, 0, 1, 1, 2, 2])


def test_ids_are_dealt_as_array_split_deals_and_scalars_are_stacked() -> None:
    body = """
        y = rankwise.ParallelFor <returns = "concat", body = b (int64 id) => (int64 r) {
            r = rankwise.Rank() }> (count)
    """
    made = model(body, "(int64 count) => (int64[n] y)")
    for count in (2, 7):
        for (y,) in run(3, made, lambda rank: {"count": np.array(count)}):  # noqa: B023
            parts = np.array_split(np.arange(count), 3)
            np.testing.assert_array_equal(y, np.repeat(range(3), list(map(len, parts))))


def test_the_body_reads_what_lies_outside_and_gives_several_results() -> None:
    body = """
        h = Neg(x)
        y, s = rankwise.ParallelFor <returns = "concat", body = b (int64 id) =>
            (float[n,m] p, int64[1] q) {
            axis = Constant<value_ints=[0]>() q = Unsqueeze(id, axis) f = Cast<to=1>(id)
            p = Add(h, f) }> (count)
        z = Relu(y)
    """
    made = model(body, "(float[n,m] x, int64 count) => (float[a,b] z, int64[c] s)")
    for z, s in run(2, made, counted(3)):
        np.testing.assert_array_equal(z, np.maximum(np.concatenate([k - X for k in range(3)]), 0))
        np.testing.assert_array_equal(s, [0, 1, 2])


COMMUNICATING = """
    y = rankwise.ParallelFor <returns = "concat", body = b (int64 id, float[n,m] v) =>
        (float[n,m] p) { f = Cast<to=1>(id) t = Add(v, f) p = rankwise.AllReduce(t) }> (count, x)
"""


def test_a_body_may_communicate_if_each_rank_has_an_id() -> None:
    for (y,) in run(3, model(COMMUNICATING), counted(3)):
        np.testing.assert_array_equal(y, np.tile(3 * X + 3, (3, 1)))
    with pytest.raises(NodeError, match="one id for each of 2 ranks, since the body communicates"):
        run(2, model(COMMUNICATING), counted(3))


def test_the_working_groups_example_in_one_model() -> None:
    """2x2 -> scatter along dim 0 -> Add -> gather, as ids that slice what they are given."""
    body = """
        y = rankwise.ParallelFor <returns = "concat", body = b (int64 id) => (float[k,m] p) {
            axis = Constant<value_ints=[0]>() one = Constant<value_ints=[1]>()
            start = Unsqueeze(id, axis) end = Add(start, one)
            part = Slice(x, start, end, axis) p = Add(part, part) }> (count)
    """
    x = np.array([[1, 2], [3, 4]], np.float32)
    for (y,) in run(2, model(body), lambda rank: {"x": x, "count": np.array(2)}):
        np.testing.assert_array_equal(y, 2 * x)


def test_ids_are_dealt_within_groups() -> None:
    body = """
        y = rankwise.ParallelFor <returns = "concat", groups = [0, 2, 1, 3], group_size = 2,
            body = b (int64 id) => (float[n,m] p) { f = Cast<to=1>(id) p = Add(x, f) }> (count)
    """
    found = run(4, model(body), lambda rank: {"x": X + 10 * (rank % 2), "count": np.array(2)})
    for rank, (y,) in enumerate(found):
        x = X + 10 * (rank % 2)
        np.testing.assert_array_equal(y, np.concatenate([x, x + 1]))


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (lambda rank: 1 + rank, "the same count on all ranks.* rank 0 has 1; rank 1 has 2"),
        (lambda rank: 0, "a count of at least 1, got 0"),
    ],
)
def test_counts_that_do_not_do_are_errors(count: Callable[[int], int], message: str) -> None:
    made = model(SCALED.replace("RETURNS", "concat").replace("DIM", "0"))
    with pytest.raises(NodeError, match=f"ParallelFor 'y' .*{message}"):
        run(2, made, lambda rank: {"x": X, "count": np.array(count(rank))})


def test_unknown_returns_are_refused() -> None:
    made = model(SCALED.replace("RETURNS", "last").replace("DIM", "0"))
    with pytest.raises(ModelError, match="expected returns of first, concat, got 'last'"):
        run(2, made, counted(2))


def test_the_checker_knows_it() -> None:
    onnx.checker.check_model(model(SCALED.replace("RETURNS", "concat").replace("DIM", "0")))
