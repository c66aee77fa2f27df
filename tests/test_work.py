"""Calls that are begun and waited for, between threads and under MPI."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import MpiRun
from deadline import soon

from rankwise.collectives import (
    CollectiveError,
    Communicator,
    MismatchError,
    RankFailure,
    Work,
    local,
)


def test_every_collective_has_an_i_form_with_the_same_result() -> None:
    def work(comm: Communicator) -> None:
        x = np.arange(12.0).reshape(4, 3) * (comm.rank + 1)
        calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
            ("allreduce", (x,), {"op": "max"}),
            ("reduce", (x,), {"root": 1}),
            ("reduce_scatter", (x,), {"dim": 1}),
            ("allgather", (x,), {}),
            ("gather", (x,), {"root": 2}),
            ("broadcast", (x,), {}),
            ("scatter", (x,), {"dim": -1}),
            ("alltoall", (x,), {}),
            ("barrier", (), {}),
        ]
        begun = [getattr(comm, f"i{name}")(*given, **options) for name, given, options in calls]
        got = [work.wait(20) for work in begun]
        for (name, given, options), one in zip(calls, got, strict=True):
            np.testing.assert_array_equal(one, getattr(comm, name)(*given, **options))
            assert getattr(comm, f"i{name}").__doc__.startswith(f"Begin {name}")

    local.run(3, work)


def test_groups_may_be_called_in_different_orders() -> None:
    def work(comm: Communicator) -> list[float]:
        first, second = comm.group(range(comm.size)), comm.group(range(comm.size))
        assert first is not None and second is not None
        x = np.ones(1000)
        if comm.rank % 2:
            works = [first.iallreduce(x), second.iallreduce(2 * x)]
        else:
            works = [second.iallreduce(2 * x), first.iallreduce(x)][::-1]
        return [float(work.wait(20)[0]) for work in works]

    assert local.run(3, work) == [[3.0, 6.0]] * 3


def test_calls_of_one_communicator_follow_one_another_and_come_before_blocking_ones() -> None:
    def work(comm: Communicator) -> None:
        done: list[int] = []
        works = [comm.iallreduce(np.full(100, k)) for k in range(20)]
        for k, one in enumerate(works):
            one.then(lambda _, k=k: done.append(k))
        assert comm.allreduce([1])[0] == comm.size
        soon(lambda: done == list(range(20)))
        assert all(one.test() for one in works)
        assert [int(one.wait()[0]) for one in works] == [k * comm.size for k in range(20)]

    local.run(3, work)


def test_the_worker_alone_completes_a_call() -> None:
    def work(comm: Communicator) -> None:
        finished = threading.Event()
        comm.iallreduce(np.ones(10)).then(lambda _: finished.set())
        assert finished.wait(20)

    local.run(3, work)


def test_a_callback_of_a_call_that_is_done_comes_at_once(caplog: Any) -> None:
    def work(comm: Communicator) -> None:
        one = comm.ibarrier()
        one.wait(20)
        seen: list[Work[None]] = []
        one.then(seen.append)
        assert seen == [one]
        assert repr(one) == "<Work: done>"

    local.run(2, work)

    def fails(comm: Communicator) -> None:
        one = comm.iallreduce([1])
        one.then(lambda _: 1 / 0)
        assert one.wait(20)[0] == 2

    with caplog.at_level(logging.ERROR):
        local.run(2, fails)
        soon(lambda: caplog.text.count("a callback of <Work: done> failed") == 2)


def test_what_waits_too_long_goes_on() -> None:
    def work(comm: Communicator) -> None:
        late = threading.Event()
        if comm.rank == 0:
            one = comm.iallreduce([1])
            assert not one.test()
            assert one.exception() is None
            with pytest.raises(TimeoutError, match="under way"):
                one.wait(0.02)
            comm.send([1], 1)
            assert one.wait(20)[0] == 2
        else:
            comm.recv([1], 0)
            assert comm.allreduce([1])[0] == 2
        late.set()

    local.run(2, work)


def test_errors_come_with_the_call_or_with_wait() -> None:
    def work(comm: Communicator) -> None:
        with pytest.raises(ValueError, match="expected an op"):
            comm.iallreduce([1], "add")
        with pytest.raises(ValueError, match="expected root"):
            comm.ibroadcast([1], root=7)
        one = comm.iallgather(np.ones((2, 2 + comm.rank)))
        with pytest.raises(MismatchError):
            one.wait(20)
        assert isinstance(one.exception(), MismatchError)
        assert comm.allreduce([1])[0] == 2

    local.run(2, work)

    def broken(comm: Communicator) -> str:
        if comm.rank == 1:
            raise RuntimeError("gone")
        one, two = comm.iallreduce([1]), comm.iallreduce([2])
        with pytest.raises(RankFailure, match="rank 1 failed"):
            one.wait(20)
        with pytest.raises(CollectiveError, match="broken by RankFailure"):
            two.wait(20)
        return "told"

    with pytest.raises(RuntimeError, match="gone"):
        local.run(2, broken)


def test_messages_begun_and_in_batches() -> None:
    def work(comm: Communicator) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        received = [comm.irecv(np.empty(3), left, tag=tag) for tag in (5, 6)]
        sent = [comm.isend(np.full(3, 10.0 * comm.rank + tag), right, tag=tag) for tag in (6, 5)]
        assert [float(one.wait(20)[0]) for one in received] == [10 * left + 5, 10 * left + 6]
        for one in sent:
            one.wait(20)
        with comm.batch() as batch:
            # Both sides receive first: without a batch they would wait for each other.
            ours = batch.recv(np.empty(2), left)
            theirs = batch.recv(np.empty(2), right)
            batch.send(np.full(2, 1.0 * comm.rank), right)
            batch.send(np.full(2, -1.0 * comm.rank), left)
        assert (ours[0], theirs[0]) == (left, -right)

    local.run(3, work)


def test_what_is_left_under_way_breaks_the_communicator() -> None:
    def work(comm: Communicator) -> None:
        other = comm.split(0)
        assert other is not None
        with pytest.raises(ValueError, match="dest from 0 to 1, got 7"), comm.batch() as batch:
            batch.recv([0], 1 - comm.rank)
            batch.send([1], 7)
        with pytest.raises(CollectiveError, match="broken by ValueError"):
            comm.allreduce([1])
        work = other.irecv([0], 1 - comm.rank)
        work._line.works.clear()  # the worker would hold it
        del work
        gc.collect()
        with pytest.raises(CollectiveError, match="broken by a Work that nobody waited for"):
            other.allreduce([1])

    local.run(2, work)


def test_long_descriptions_differ_at_their_end() -> None:
    def long(a: Any, b: Any) -> Any:
        return a

    long.__name__ = 300 * "long"

    def work(comm: Communicator) -> None:
        comm.checked = True
        with pytest.raises(MismatchError, match=r"rank 0 calls .* but rank 1 calls"):
            comm.reduce(np.ones(2 + comm.rank), op=long)

    local.run(2, work)


CHECKED: list[tuple[str, Callable[[Communicator, bool], object], str]] = [
    ("shapes", lambda c, odd: c.reduce(np.ones(4 if odd else 3)), r"\(3,\).*\(4,\)"),
    ("dtypes", lambda c, odd: c.reduce_scatter(np.ones(3, "f" if odd else "d")), "float64.*32"),
    ("ops", lambda c, odd: c.allreduce([1], "min" if odd else "max"), "max.*min"),
    ("algorithms", lambda c, odd: c.allreduce([1], algorithm="ring" if odd else "tree"), "tree"),
    ("roots", lambda c, odd: c.broadcast([1], root=int(odd)), "broadcast by auto 0"),
    ("calls", lambda c, odd: c.barrier() if odd else c.allgather([1]), "allgather.*barrier"),
    ("dims", lambda c, odd: c.scatter(np.ones((2, 2)), dim=int(odd)), "scatter"),
    ("counts", lambda c, odd: c.allgather([1], counts=(1,) * c.size if odd else None), "None"),
    ("cuts", lambda c, odd: c.alltoall(np.ones((4, 4)), split_dim=int(odd)), "from dim 0.*dim 1"),
]


@pytest.mark.parametrize(("what", "call", "text"), CHECKED, ids=[case[0] for case in CHECKED])
def test_a_checked_communicator_compares_calls(
    what: str, call: Callable[[Communicator, bool], object], text: str
) -> None:
    def work(comm: Communicator) -> None:
        comm.checked = True
        for odd in range(comm.size):
            with pytest.raises(MismatchError, match=text if odd else None):
                call(comm, comm.rank == odd)
            assert comm.allreduce([1])[0] == comm.size  # nothing had moved
        half = comm.split(comm.rank % 2)
        assert half is not None and half.checked

    local.run(3, work)


UNDER_MPI = """
import time
import numpy as np
from mpi4py import MPI
from rankwise.collectives import Communicator, MismatchError
from rankwise.collectives.work import WORKER

comm = Communicator.world(checked=True)
other = Communicator.world()
p = comm.size
for count in (3, 100_000):
    x = np.ones(count)
    for name in ("auto", "ring", "mpi"):
        if comm.rank % 2:
            works = [comm.iallreduce(x, algorithm=name), other.iallreduce(2 * x, algorithm=name)]
        else:
            works = [other.iallreduce(2 * x, algorithm=name), comm.iallreduce(x, algorithm=name)]
            works.reverse()
        assert [float(w.wait(30)[-1]) for w in works] == [p, 2 * p], name
x = np.arange(6.0)
moving = ("allgather", "broadcast", "scatter", "gather", "alltoall")
for name in ("reduce", "reduce_scatter", *moving):
    begun = getattr(other, "i" + name)(x, algorithm="mpi").wait(30)
    np.testing.assert_array_equal(begun, getattr(other, name)(x, algorithm="mpi"), name)
other.ibarrier(algorithm="mpi").wait(30)
if p > 1:
    try:
        comm.allreduce([1]) if comm.rank else comm.barrier()
    except MismatchError as error:
        assert "barrier" in str(error) and "allreduce" in str(error)
    else:
        raise AssertionError("no mismatch")
    assert comm.allreduce([1])[0] == p
threaded = MPI.Query_thread() == MPI.THREAD_MULTIPLE
assert (WORKER.thread is not None) == (threaded and p > 1), WORKER.thread
if p > 1:
    one = comm.iallreduce(np.ones(1_000_000))
    deadline = time.monotonic() + 30
    while not one.test() and time.monotonic() < deadline:
        pass
    assert one.test()
other.free()
comm.free()
print("worked")
"""


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_calls_are_begun_under_mpi(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, UNDER_MPI)
    assert (done.returncode, done.stdout.count("worked")) == (0, ranks), done.stderr


@pytest.mark.mpi
def test_without_threads_messages_move_in_test_and_wait(
    mpirun: MpiRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", "serialized")
    done = mpirun(3, UNDER_MPI)
    assert (done.returncode, done.stdout.count("worked")) == (0, 3), done.stderr


def test_the_worker_waits_without_holding_up_others() -> None:
    """A call under way costs little time of the processor, however long it waits."""

    def work(comm: Communicator) -> float:
        used, started = time.process_time(), time.monotonic()
        if comm.rank == 1:
            time.sleep(0.5)
        comm.iallreduce([1]).wait(20)
        return (time.process_time() - used) / (time.monotonic() - started)

    assert max(local.run(2, work)) < 0.8
