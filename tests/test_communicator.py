"""The communicator: where results lie, messages, groups, bytes, and mistakes."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
from checking import (
    Check,
    bent,
    between_threads,
    hold_between_threads,
    into,
    names,
    operand,
    operands,
    same,
    total,
)

from rankwise.collectives import CollectiveError, Communicator, MismatchError, local
from rankwise.collectives.cost import traffic
from rankwise.collectives.specs import SPECS
from rankwise.collectives.table import TABLE

CHECKS: list[Check] = []
check = into(CHECKS)


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


@between_threads(CHECKS)
def test_it_holds_between_threads(check: Check) -> None:
    hold_between_threads(check)


def test_a_broken_communicator_refuses_further_calls() -> None:
    def work(comm: Communicator) -> None:
        with pytest.raises((ZeroDivisionError, CollectiveError)):
            comm.allreduce([1.0], lambda a, b: 1 / 0)
        with pytest.raises(CollectiveError, match="broken by"):
            comm.barrier()

    local.run(1, lambda comm: comm.barrier())
    local.run(2, work)
