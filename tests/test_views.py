"""Arrays in shared memory, and results that ranks share."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MpiRun

from rankwise.collectives import Communicator, MismatchError, local
from rankwise.collectives.arena import KEPT, Arena, arena
from rankwise.collectives.control import HOLDS
from rankwise.collectives.segment import created


@pytest.fixture
def small() -> Arena:
    fd, memory = created(64 * 4096)
    assert memory is not None
    return Arena(fd, memory)


def test_pieces_come_back_when_nothing_refers_to_them(small: Arena) -> None:
    arrays = [small.empty(5000) for _ in range(3)]
    starts = [small.place(x) for x in arrays if x is not None]
    assert starts == [4096, 3 * 4096, 5 * 4096]
    view = arrays[1][10:20] if arrays[1] is not None else None
    arrays.clear()
    gc.collect()
    assert small.take(4096) == (4096, 2 * 4096)  # the first of those that were given back
    assert small.take(2 * 4096) == (5 * 4096, 7 * 4096)  # the second is still referred to
    del view
    gc.collect()
    assert small.take(2 * 4096) == (2 * 4096, 4 * 4096)


def test_what_is_given_back_is_one_piece_again(small: Arena) -> None:
    everything = 63 * 4096
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]):
        pieces = [small.take(4096) for _ in range(4)]
        for k in order:
            piece = pieces[k]
            assert piece is not None
            small.returned.append(piece)
        whole = small.take(everything)
        assert whole is not None
        assert small.take(1) is None
        small.returned.append(whole)


def test_much_that_is_given_back_keeps_no_pages() -> None:
    fd, memory = created(2 * KEPT)
    assert memory is not None
    large = Arena(fd, memory)
    first = large.empty(KEPT + 4096)
    assert first is not None
    first[-1] = 7
    place = large.place(first)
    del first
    gc.collect()
    again = large.empty(KEPT + 4096)
    assert again is not None
    assert large.place(again) == place
    assert again[-1] == 0


def test_other_arrays_have_no_place(small: Arena) -> None:
    assert small.place(np.zeros(3)) == 0


def test_between_threads_an_empty_array_is_an_ordinary_one() -> None:
    def work(comm: Communicator) -> None:
        x = comm.empty((2, 3), "f4")
        assert (x.shape, x.dtype) == ((2, 3), np.float32)
        x[:] = comm.rank
        shared = comm.allreduce(x, view=True)
        assert (shared == 3).all()
        assert not shared.flags.writeable
        with pytest.raises(ValueError, match="out or view"):
            comm.allreduce(x, out=x, view=True)
        assert comm.empty(0).shape == (0,)

    local.run(3, work)


CHECKS: list[Callable[[Communicator], None]] = []


def check(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    CHECKS.append(function)
    return function


def born(comm: Communicator, x: np.ndarray) -> np.ndarray:
    """The same numbers in shared memory."""
    found = comm.empty(x.shape, x.dtype)
    found[...] = x
    memory = arena()
    assert memory is not None and memory.place(found)
    return found


@check
def results_are_those_of_ordinary_arrays(comm: Communicator) -> None:
    for count in (1, 7, 1001, 40_000, 1_000_003):
        rng = np.random.default_rng(comm.rank)
        for dtype in ("f4", "f8", "f2", "i4"):
            x = (100 * rng.standard_normal(count)).astype(dtype)
            expected = comm.allreduce(x, algorithm="two_shot")
            ours = born(comm, x)
            for out in (None, comm.empty(count, dtype), np.empty(count, dtype)):
                got = comm.allreduce(ours, out=out, algorithm="two_shot")
                assert out is None or got is out
                assert got.tobytes() == expected.tobytes()
            for given in (ours, x):
                got = comm.allreduce(given, view=True)
                assert got.tobytes() == expected.tobytes()
                assert not got.flags.writeable or comm.size == 1
            comm.allreduce(ours, out=ours, algorithm="two_shot")
            assert ours.tobytes() == expected.tobytes()


@check
def some_ranks_may_bring_ordinary_arrays(comm: Communicator) -> None:
    for odd in range(comm.size):
        for count in (50_000, 2_000_003):
            x = np.full(count, comm.rank + 1.0)
            given = x if comm.rank == odd else born(comm, x)
            into = comm.empty(count) if comm.rank != odd else None
            assert (comm.allreduce(given, out=into) == sum(range(1, comm.size + 1))).all()
            assert (comm.allreduce(x) == sum(range(1, comm.size + 1))).all()


@check
def means_and_truths_are_finished(comm: Communicator) -> None:
    x = born(comm, np.full(30_000, comm.rank, "f4"))
    for view in (False, True):
        assert np.allclose(comm.allreduce(x, "mean", view=view), (comm.size - 1) / 2)
        lands = comm.allreduce(born(comm, np.full(40_000, 3, "i4")), "land", view=view)
        assert (lands == 1).all()


@check
def views_stay_true_as_long_as_something_refers_to_them(comm: Communicator) -> None:
    x = born(comm, np.arange(1000.0))
    first = comm.allreduce(x, view=True)
    part = first[10:12]
    del first
    many = [comm.allreduce(x * k, view=True) for k in range(HOLDS + 6)]  # more than there are
    for _ in range(20):
        comm.allreduce(-x, view=True)
    assert part.tolist() == [10.0 * comm.size, 11.0 * comm.size]
    for k, one in enumerate(many):
        np.testing.assert_array_equal(one, comm.size * k * x)
    del many, part
    gc.collect()
    for count in (10, 100_000, 1000):  # memory is used again
        for _ in range(HOLDS):
            assert (comm.allreduce(np.ones(count), view=True) == comm.size).all()


@check
def views_outlive_their_communicator(comm: Communicator) -> None:
    copy = comm.split(0)
    assert copy is not None
    kept = copy.allreduce(np.arange(5000.0), view=True)
    copy.free()
    for _ in range(5):
        again = comm.split(0)
        assert again is not None
        again.allreduce(np.full(5000, 7.0), view=True)
        again.free()
    np.testing.assert_array_equal(kept, comm.size * np.arange(5000.0))


@check
def who_asks_for_no_view_is_told(comm: Communicator) -> None:
    if comm.size == 1:
        return
    with pytest.raises(MismatchError, match="by view"):
        comm.allreduce(np.ones(5000), view=comm.rank == 0)
    assert comm.allreduce([1])[0] == comm.size


def main() -> None:
    """All checks on the world, for the test below."""
    comm = Communicator.world()
    for function in CHECKS:
        function(comm)
    comm.free()
    if comm.rank == 0:
        print("checked", len(CHECKS))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_check_holds_between_processes(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, [str(Path(__file__))])
    assert (done.returncode, done.stdout.strip()) == (0, f"checked {len(CHECKS)}"), done.stderr


if __name__ == "__main__":
    main()
