"""The communicator's calls against numpy, between threads.

Each check is a function of a communicator that every rank calls; test_communicator_mpi.py runs all
of them under MPI.
"""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rankwise.collectives import CollectiveError, Communicator, MismatchError, communicator, local
from rankwise.collectives.cost import traffic
from rankwise.collectives.specs import SPECS
from rankwise.collectives.table import TABLE

Array = np.ndarray[Any, np.dtype[Any]]

NUMBERS = [
    *"?bhilqBHILQefdgFDG", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    ">i4", ">f8",
]  # fmt: skip
OTHERS = ["S3", "U2", "M8[s]", "m8[ns]", "V5", [("a", "i4"), ("b", "f8", (2,))]]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (4, 0), (2, 3, 4)]

CHECKS: list[Callable[[Communicator], None]] = []


def check(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    CHECKS.append(function)
    return function


def names(collective: str) -> list[str]:
    return [*TABLE[collective], "auto", "mpi"]


def ordered(collective: str) -> list[str]:
    """The algorithms that functions of whole arrays may use."""
    return [name for name, e in TABLE[collective].items() if e.ordered and e.whole]


def operand(rank: int, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """Small whole numbers, different on each rank: every sum of them is exact in every dtype."""
    return ((np.arange(np.prod(shape, dtype=int)) + 2 * rank) % 3).reshape(shape).astype(dtype)


def operands(comm: Communicator, shape: tuple[int, ...], dtype: Any = np.float64) -> list[Array]:
    return [operand(rank, shape, dtype) for rank in range(comm.size)]


def total(arrays: list[Array]) -> Array:
    return functools.reduce(lambda a, b: np.asarray(a + b, a.dtype), arrays)


def same(got: Array | None, expected: Array) -> None:
    """Equal in every bit, dtype and shape, and in C order."""
    assert got is not None and got.flags.c_contiguous
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if got.dtype.char in "gG":  # has bytes that mean nothing
        np.testing.assert_array_equal(got, expected)
    else:
        assert got.tobytes() == expected.tobytes(), (got, expected)


def bent(x: Array) -> list[Array]:
    """The same elements in other orders of memory."""
    every_second: Any = (Ellipsis, *[slice(None, None, 2)] * x.ndim)
    spread = np.zeros([2 * n for n in x.shape], x.dtype)[every_second]
    spread[...] = x
    turned = np.flip(np.flip(x).copy()) if x.ndim else x
    return [x, np.asfortranarray(x).reshape(x.shape, order="F"), spread, turned]


@check
def sums_in_every_dtype(comm: Communicator) -> None:
    for dtype in NUMBERS:
        ours = operands(comm, (7,), dtype)
        expected = total(ours)
        for name in names("allreduce"):
            same(comm.allreduce(ours[comm.rank], algorithm=name), expected)
        for name in names("reduce_scatter"):
            part = comm.reduce_scatter(ours[comm.rank], algorithm=name)
            same(part, np.array_split(expected, comm.size)[comm.rank])
        for name in names("reduce"):
            got = comm.reduce(ours[comm.rank], root=comm.size - 1, algorithm=name)
            same(got, expected) if comm.rank == comm.size - 1 else same_none(got)


def same_none(got: object) -> None:
    assert got is None


@check
def moves_of_every_dtype(comm: Communicator) -> None:
    for dtype in [*NUMBERS, *OTHERS]:
        kind = np.dtype(dtype)
        raw = np.arange(12 * kind.itemsize, dtype=np.uint8).reshape(12, -1) % 2
        if kind.kind in "SU":
            whole = np.array([f"{i}" for i in range(12)], kind)
        else:
            whole = raw.reshape(-1).view(kind)
        parts = np.array_split(whole, comm.size)
        for name in names("allgather"):
            same(comm.allgather(parts[comm.rank], algorithm=name), whole)
        for name in names("broadcast"):
            same(comm.broadcast(whole if comm.rank == 0 else None, algorithm=name), whole)
        for name in names("scatter"):
            got = comm.scatter(whole if comm.rank == 0 else None, algorithm=name)
            same(got, parts[comm.rank])
        for name in names("gather"):
            got_or_none = comm.gather(parts[comm.rank], algorithm=name)
            same(got_or_none, whole) if comm.rank == 0 else same_none(got_or_none)
        for name in names("alltoall"):
            expected = np.tile(parts[comm.rank], comm.size)
            same(comm.alltoall(whole, algorithm=name), expected)
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        same(comm.sendrecv(parts[comm.rank], right, parts[left], left), parts[left])


@check
def reductions_of_every_shape_and_memory_order(comm: Communicator) -> None:
    for shape in SHAPES:
        expected = total(operands(comm, shape))
        for x in bent(operand(comm.rank, shape)):
            for name in names("allreduce"):
                same(comm.allreduce(x, algorithm=name), expected)
            for dim in range(-len(shape), len(shape)):
                part = np.array_split(expected, comm.size, dim)[comm.rank]
                for name in names("reduce_scatter"):
                    same(comm.reduce_scatter(x, dim=dim, algorithm=name), part.copy())


@check
def moves_of_every_shape_root_and_memory_order(comm: Communicator) -> None:
    for shape in SHAPES[1:]:
        ours = operands(comm, shape)
        for dim in range(len(shape)):
            together = np.concatenate(ours, dim)
            for x in bent(ours[comm.rank]):
                for name in names("allgather"):
                    same(comm.allgather(x, dim, algorithm=name), together)
            for root in range(comm.size):
                x = ours[comm.rank]
                for name in names("gather"):
                    got = comm.gather(x, root, dim, algorithm=name)
                    same(got, together) if comm.rank == root else same_none(got)
                for name in names("scatter"):
                    part = comm.scatter(
                        x if comm.rank == root else None, root, dim, algorithm=name
                    )
                    same(part, np.array_split(ours[root], comm.size, dim)[comm.rank].copy())
    for root in range(comm.size):
        for shape in SHAPES:
            x = operand(comm.rank, shape)
            expected = operand(root, shape)
            for name in names("broadcast"):
                same(
                    comm.broadcast(x if comm.rank == root else None, root, algorithm=name),
                    expected,
                )
            for name in names("reduce"):
                got = comm.reduce(x, "sum", root, algorithm=name)
                same(got, total(operands(comm, shape))) if comm.rank == root else same_none(got)


@check
def alltoall_along_any_two_dims(comm: Communicator) -> None:
    for shape in [(5, 3), (2, 0), (4, 4, 3)]:
        ours = operands(comm, shape)
        for split_dim in range(len(shape)):
            for concat_dim in range(len(shape)):
                parts = [np.array_split(x, comm.size, split_dim)[comm.rank] for x in ours]
                for x in bent(ours[comm.rank]):
                    for name in names("alltoall"):
                        got = comm.alltoall(x, split_dim, concat_dim, algorithm=name)
                        same(got, np.concatenate(parts, concat_dim))


@check
def ranks_of_different_lengths(comm: Communicator) -> None:
    ours = [operand(rank, (2, rank, 3)) for rank in range(comm.size)]
    together, counts = np.concatenate(ours, 1), range(comm.size)
    x = ours[comm.rank]
    same(comm.allgather(x, 1), together)
    same(comm.allgather(x, -2, counts=counts), together)
    got = comm.gather(x, comm.size - 1, 1, counts=counts)
    same(got, together) if comm.rank == comm.size - 1 else same_none(got)
    for split_dim in range(3):
        parts = [np.array_split(y, comm.size, split_dim)[comm.rank] for y in ours]
        for given in (None, counts):
            same(comm.alltoall(x, split_dim, 1, counts=given), np.concatenate(parts, 1))


@check
def scalars_count_as_one_element(comm: Communicator) -> None:
    here = np.array(comm.rank)
    everyone = np.arange(comm.size)
    same(comm.allreduce(here), np.array(everyone.sum()))
    same(comm.allgather(here), everyone)
    same(comm.broadcast(here, comm.size - 1), np.array(comm.size - 1))
    assert comm.reduce_scatter(here).shape == ((1,) if comm.rank == 0 else (0,))


@check
def results_in_the_arrays_that_are_given(comm: Communicator) -> None:
    for name in names("allreduce"):
        for x in bent(operand(comm.rank, (3, 5))):
            expected = total(operands(comm, (3, 5)))
            out = np.empty((3, 5))
            assert comm.allreduce(x, out=out, algorithm=name) is out
            same(out, expected)
            y = x.copy(order="K")
            assert comm.allreduce(y, out=y, algorithm=name) is y
            np.testing.assert_array_equal(y, expected)
            assert (
                comm.allreduce(x, out=x.T.copy().T, algorithm=name).tolist() == expected.tolist()
            )
    n = comm.size
    wide = np.full((n, 4), -1.0)
    mine = wide[comm.rank]
    mine[:] = comm.rank
    comm.allgather(mine.reshape(1, 4), out=wide)  # out overlaps x
    np.testing.assert_array_equal(wide, np.repeat(np.arange(n), 4).reshape(n, 4))
    line = np.arange(4.0 * n)
    comm.reduce_scatter(line, out=line[:4])
    np.testing.assert_array_equal(line[:4], n * (np.arange(4) + 4 * comm.rank))
    square = np.arange(n * n).reshape(n, n)
    comm.alltoall(square, 0, 0, out=square)
    np.testing.assert_array_equal(square, np.tile(np.arange(n) + n * comm.rank, (n, 1)))
    backward = np.arange(6.0)[::-1]
    comm.broadcast(backward, out=backward)
    np.testing.assert_array_equal(backward, np.arange(6.0)[::-1])
    same(comm.scatter(np.arange(n), out=np.empty(1, int)), np.array([comm.rank]))


@check
def results_equal_on_all_ranks_to_the_last_bit(comm: Communicator) -> None:
    x = np.random.default_rng(comm.rank).standard_normal(1001).astype(np.float32)
    x[comm.rank] = -0.0
    for name in TABLE["allreduce"]:
        for op in ("sum", "prod", "max", "min"):
            result = comm.allreduce(x, op, algorithm=name)
            everyone = comm.allgather(result.view(np.uint32).reshape(1, -1))
            assert (everyone == everyone[0]).all(), (name, op)


@check
def functions_keep_the_order_of_ranks(comm: Communicator) -> None:
    # Products of integer matrices: exact, associative, and not commutative.
    factors = [np.array([[1, r + 1], [r, 1 + r * (r + 1)]]) for r in range(comm.size)]
    product = functools.reduce(np.matmul, factors)
    for op in (np.matmul, lambda a, b: a @ b):
        for name in (*ordered("allreduce"), "auto", "mpi"):
            same(comm.allreduce(factors[comm.rank], op, algorithm=name), product)
        for dim in (0, 1):
            part = np.array_split(product, comm.size, dim)[comm.rank].copy()
            same(comm.reduce_scatter(factors[comm.rank], op, dim), part)
        for root in range(comm.size):
            for name in (*ordered("reduce"), "auto"):
                got = comm.reduce(factors[comm.rank], op, root, algorithm=name)
                same(got, product) if comm.rank == root else same_none(got)


@check
def an_algorithm_that_breaks_the_order_is_refused(comm: Communicator) -> None:
    with pytest.raises(ValueError, match=r"\(tree, knomial, .*\) for op '<lambda>'"):
        comm.allreduce([1], lambda a, b: a, algorithm="ring")
    with pytest.raises(ValueError, match=r"\(ordered_tree, linear\) for .*subtract"):
        comm.reduce([1], np.subtract, algorithm="tree")


@check
def bytes_are_those_of_the_schedule(comm: Communicator) -> None:
    n = comm.size
    x = np.ones(n * 1000, np.float32)

    def sent(call: Callable[[], object]) -> int:
        before = comm.bytes_sent
        call()
        return comm.bytes_sent - before

    assert sent(lambda: comm.allreduce(x, algorithm="ring")) == 2 * (n - 1) * 4000
    assert sent(lambda: comm.reduce_scatter(x, algorithm="ring")) == (n - 1) * 4000
    mine = x[:1000]
    counts = (1000,) * n
    assert sent(lambda: comm.allgather(mine, counts=counts, algorithm="ring")) == (n - 1) * 4000
    assert sent(lambda: comm.alltoall(x, counts=(1000 * n,) * n)) == (n - 1) * 4000
    calls: dict[str, Callable[[str], object]] = {
        "allreduce": lambda name: comm.allreduce(x, algorithm=name),
        "reduce_scatter": lambda name: comm.reduce_scatter(x, algorithm=name),
        "allgather": lambda name: comm.allgather(mine, counts=counts, algorithm=name),
        "reduce": lambda name: comm.reduce(x, algorithm=name),
        "gather": lambda name: comm.gather(mine, counts=counts, algorithm=name),
        "alltoall": lambda name: comm.alltoall(x, counts=(1000 * n,) * n, algorithm=name),
    }
    comm.allreduce(x, algorithm="hierarchical")  # asks once which rank is on which node
    for collective, call in calls.items():
        for name, entry in TABLE[collective].items():
            if not entry.shared:
                root = 0 if SPECS[collective].rooted else None
                expected = 4000 * traffic(entry.algorithm, n, root).sent[comm.rank]
                assert sent(functools.partial(call, name)) == expected, (collective, name)
    assert sent(comm.barrier) == 0
    assert sent(lambda: comm.allreduce(x[:0])) == 0


@check
def mistakes_of_the_caller(comm: Communicator) -> None:
    x = np.ones((2, 2))
    mistakes: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, "got 'rong'", lambda: comm.allreduce(x, algorithm="rong")),
        (ValueError, "an op of sum, .*got 'avg'", lambda: comm.allreduce(x, "avg")),
        (ValueError, r"root from 0 to .*, got -1", lambda: comm.reduce(x, root=-1)),
        (ValueError, "root from 0", lambda: comm.broadcast(x, comm.size)),
        (ValueError, "root from 0", lambda: comm.scatter(x, comm.size)),
        (ValueError, "root from 0", lambda: comm.gather(x, comm.size)),
        (ValueError, "dest from 0", lambda: comm.send(x, comm.size)),
        (ValueError, "source from 0", lambda: comm.recv(x, -1)),
        (ValueError, "tag from 0 to .*, got -1", lambda: comm.send(x, 0, tag=-1)),
        (ValueError, "dim from -2 to 1, got 2", lambda: comm.reduce_scatter(x, dim=2)),
        (ValueError, "dim from -2 to 1, got 2", lambda: comm.allgather(x, dim=2)),
        (ValueError, "dim from -2 to 1, got -3", lambda: comm.scatter(x, dim=-3)),
        (ValueError, "split_dim from", lambda: comm.alltoall(x, 3, 0)),
        (ValueError, "counts of", lambda: comm.allgather(x, counts=(1,) * comm.size)),
        (ValueError, r"out of float64 \(2, 2\), got float32 \(2, 2\)",
         lambda: comm.allreduce(x, out=np.ones((2, 2), np.float32))),
        (ValueError, r"got float64 \(4,\)", lambda: comm.allreduce(x, out=np.ones(4))),
        (ValueError, "to be writable",
         lambda: comm.allreduce(x, out=np.broadcast_to(1.0, (2, 2)))),
        (ValueError, "different ranks below", lambda: comm.group([0, 0])),
        (ValueError, "different ranks below", lambda: comm.group([comm.size])),
        (TypeError, "numbers, got dtype object", lambda: comm.allreduce(np.array([None, {}]))),
        (TypeError, "numbers, got dtype object", lambda: comm.send(np.array([{}]), 0)),
        (TypeError, "'band' is not defined for dtype float64", lambda: comm.allreduce(x, "band")),
        (TypeError, "'mean', got int64", lambda: comm.allreduce([1], "mean")),
        (TypeError, "from this rank, got None", lambda: comm.allreduce(None)),  # type: ignore[arg-type]  # the mistake under test
    ]  # fmt: skip
    for kind, message, call in mistakes:
        with pytest.raises(kind, match=message):
            call()
    same(comm.allreduce(np.ones(1)), np.array([float(comm.size)]))  # and all is as before


@check
def ranks_that_do_not_fit_are_told_on_every_rank(comm: Communicator) -> None:
    if comm.size == 1:
        return
    last = comm.size - 1
    other = np.ones((2, 4)) if comm.rank == last else np.ones((2, 3))
    with pytest.raises(MismatchError, match=rf"rank 0 has float64 \(2, 3\), but rank {last} has"):
        comm.allgather(other, 0)
    kind = np.int16 if comm.rank == last else np.int32
    for call in (comm.allgather, comm.gather, comm.alltoall):
        with pytest.raises(MismatchError, match=f"int32 .*, but rank {last} has int16"):
            call(np.ones(3, kind))
        with pytest.raises(MismatchError, match=r"but for dim 0"):
            call(np.ones((3, 1) if comm.rank == last else 3), 0)
    comm.barrier()


@check
def messages_find_their_tag_and_keep_their_order(comm: Communicator) -> None:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    if comm.size > 1:
        for turn in range(3):
            for tag in (5, 0):
                comm.send(np.array([turn, tag, comm.rank]), right, tag)
        for tag in (0, 5):
            for turn in range(3):
                same(comm.recv(np.empty(3, int), left, tag), np.array([turn, tag, left]))
    got = comm.sendrecv([[1.5], [2.0]], right, np.empty((1, 2)).T, left)
    np.testing.assert_array_equal(got, [[1.5], [2]])
    here = np.arange(1000.0) + comm.rank
    assert comm.sendrecv(here, right, here[::-1], left).base is here
    np.testing.assert_array_equal(here[::-1], np.arange(1000.0) + left)
    frozen = np.zeros(2, np.int8)
    frozen.flags.writeable = False
    same(comm.sendrecv(np.array([3, 4], np.int8), right, frozen, left), np.array([3, 4], np.int8))


@check
def messages_of_another_length_are_a_mismatch(comm: Communicator) -> None:
    if comm.size == 1:
        return
    for length in (3, 5):
        if comm.rank == 0:
            comm.send(np.ones(length), 1)
        elif comm.rank == 1:
            with pytest.raises(MismatchError, match="rank 1"):
                comm.recv(np.empty(4), 0)
    comm.barrier()


@check
def groups_of_ranks_keep_to_themselves(comm: Communicator) -> None:
    parity = comm.split(comm.rank % 2, key=-comm.rank)
    assert parity is not None
    members = [r for r in reversed(range(comm.size)) if r % 2 == comm.rank % 2]
    assert parity.size == len(members) and members[parity.rank] == comm.rank
    same(parity.allgather([comm.rank]), np.array(members))
    assert comm.split(None) is None or comm.size < 0
    ends = comm.group([comm.size - 1, 0] if comm.size > 1 else [0])
    assert (ends is None) == (comm.rank not in (0, comm.size - 1))
    if ends is not None and comm.size > 1:
        assert ends.rank == (1 if comm.rank == 0 else 0)
        # A message in one of two groups of the same ranks does not arrive in the other.
        peer = 1 - ends.rank
        world_peer = comm.size - 1 - comm.rank
        ends.send([10], peer)
        comm.send([20], world_peer)
        same(comm.recv(np.empty(1, int), world_peer), np.array([20]))
        same(ends.recv(np.empty(1, int), peer), np.array([10]))
    for one in (parity, ends):
        if one is not None:
            one.free()
    same(comm.allreduce([1]), np.array([comm.size]))


@check
def a_freed_communicator_says_so(comm: Communicator) -> None:
    with Communicator(comm._transport.group(tuple(range(comm.size)))) as copy:
        same(copy.allreduce([1]), np.array([comm.size]))
    copy.free()
    with pytest.raises(CollectiveError, match=r"working order, got .*freed"):
        copy.allreduce([1])
    with pytest.raises(CollectiveError, match="freed"):
        copy.send([1], 0)


@check
def ranks_of_this_node(comm: Communicator) -> None:
    assert comm.node_ranks == tuple(range(comm.size))


@check
def headers_that_are_longer_than_a_cell(comm: Communicator) -> None:
    fields = np.dtype([(f"a field with a long name, number {i}", "i4") for i in range(30)])
    rows = np.arange(30 * 2, dtype=np.int32).view(fields)
    same(comm.broadcast(rows if comm.rank == 0 else None), rows)
    same(comm.allgather(rows), np.concatenate([rows] * comm.size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("function", CHECKS, ids=lambda function: str(function.__name__))
def test_it_holds_between_threads(function: Callable[[Communicator], None], size: int) -> None:
    local.run(size, function)


def test_a_broken_communicator_refuses_further_calls() -> None:
    def work(comm: Communicator) -> None:
        with pytest.raises((ZeroDivisionError, CollectiveError)):
            comm.allreduce([1.0], lambda a, b: 1 / 0)
        with pytest.raises(CollectiveError, match="broken by"):
            comm.barrier()

    local.run(1, lambda comm: comm.barrier())
    local.run(2, work)


def main() -> None:
    """All checks on the world, for test_communicator_mpi.py."""
    comm = communicator.create()
    for function in CHECKS:
        try:
            function(comm)
        except BaseException:
            print(f"rank {comm.rank}, {function.__name__}:", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            comm.abort(1)
    same(comm.allreduce([1, 2, 3], op=sum), comm.size * np.array([1, 2, 3]))
    comm.free()
    if comm.rank == 0:
        print("checked", len(CHECKS))


if __name__ == "__main__":
    main()
