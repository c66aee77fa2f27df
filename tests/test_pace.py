"""The way of long arrays through the ring."""

from pathlib import Path

import numpy as np
import pytest
from conftest import MpiRun

from rankwise.collectives import Communicator
from rankwise.collectives.pace import STRIDES, TRIAL_EVERY, Pace


def ways(seconds: tuple[float, float], calls: int) -> list[int]:
    """The way of each call, where every way takes what it takes."""
    pace, found = Pace(), []
    for _ in range(calls):
        way = pace.way
        found.append(way)
        pace.way = pace.following()
        pace.took(way, 1, seconds[way])
    return found


@pytest.mark.parametrize("fastest", [0, 1])
def test_the_faster_way_is_taken_once_both_are_known(fastest: int) -> None:
    found = ways((1.0, 2.0) if fastest == 0 else (2.0, 1.0), 200)
    assert found[:2] == [0, 1]
    assert found[36:60] == [fastest] * 24
    # The first, second, fourth ... call, and every 64th.
    assert 0 < found[3:].count(1 - fastest) <= 200 / TRIAL_EVERY + 7


def test_a_change_is_noticed() -> None:
    pace = Pace()
    taken = []
    for k in range(6 * TRIAL_EVERY):
        way = pace.way
        taken.append(way)
        pace.way = pace.following()
        slow = 0 if k < 2 * TRIAL_EVERY else 1
        pace.took(way, 1, 3.0 if way == slow else 1.0)
    assert taken[TRIAL_EVERY - 4] == 1
    assert taken[-4] == 0


def main() -> None:
    """Long sums under mpirun, whose way rank 0 changes with every call."""
    comm = Communicator.world()
    comm.allreduce([1])
    shared = comm._shared
    assert shared is not None
    turn = iter(range(1000))
    shared.pace.following = lambda: (1, 1, 0, 1, 0, 0)[next(turn) % 6]  # type: ignore[method-assign]
    seen = set()
    rng = np.random.default_rng(comm.rank)
    for k in range(14):
        count = (1 << 20) + 1 + 100_003 * (k % 5)
        x = rng.integers(0, 100, count).astype(np.float32)
        seen.add(shared.pace.way)
        ways = comm.allgather([shared.pace.way])
        assert len(set(ways.tolist())) == 1, ways
        expected = comm.allreduce(x, algorithm="ring")
        assert (comm.allreduce(x, algorithm="two_shot") == expected).all()
        assert (comm.allreduce(x[:1000]) == expected[:1000]).all()
        born = comm.empty(count, np.float32)
        born[:] = x
        given = born if comm.rank == k % comm.size else x  # not all can be read where they lie
        assert (comm.allreduce(given, algorithm="two_shot") == expected).all()
    assert seen == set(range(len(STRIDES)))
    comm.free()
    if comm.rank == 0:
        print("paced")


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_all_ranks_go_the_same_way(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, [str(Path(__file__))])
    assert (done.returncode, done.stdout.strip()) == (0, "paced"), done.stderr


if __name__ == "__main__":
    main()
