"""What many communicators and many calls leave behind: nothing."""

import pytest
from conftest import MpiRun

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(200)]

MESH = """
import numpy as np
from rankwise.collectives import Communicator

world = Communicator.world()
row = world.split(world.rank // 2, world.rank)
column = world.split(world.rank % 2, world.rank)
mates = [r for r in range(4) if r // 2 == world.rank // 2]
peers = [r for r in range(4) if r % 2 == world.rank % 2]

def operand(rank, turn, length):
    return np.arange(length) * (rank + 1) + turn

for turn in range(200):
    length = (1, 7, 1000, 40_000)[turn % 4]
    algorithm = ("auto", "ring", "mpi")[turn % 3]
    x = operand(world.rank, turn, length)
    # Each rank begins with another one of its two groups.
    groups = [(row, mates), (column, peers)][:: 1 if world.rank in (0, 3) else -1]
    works = [group.iallreduce(x, algorithm=algorithm) for group, _ in groups]
    for work, (_, ranks) in zip(works, groups):
        expected = sum(operand(r, turn, length) for r in ranks)
        assert (work.wait(timeout=30) == expected).all(), (turn, ranks)
world.barrier()
if row.rank == column.rank == 0:
    print("right")
for one in (row, column, world):
    one.free()
"""


def test_a_row_and_a_column_of_a_mesh_reduce_at_the_same_time(mpirun: MpiRun) -> None:
    done = mpirun(4, MESH)
    assert (done.returncode, done.stdout.strip()) == (0, "right"), done.stderr


HELD = """
import gc, os
from pathlib import Path

import numpy as np
from rankwise.collectives import Communicator

ME = Path("/proc/self")

def held():
    gc.collect()
    maps = (ME / "maps").read_text()
    return {
        "files": len(os.listdir(ME / "fd")),
        "threads": len(os.listdir(ME / "task")),
        "nameless": maps.count("memfd:"),
        "named": maps.count("/dev/shm/"),
    }

def memory():
    # What only this process has written. Pages of shared memory count for all that map them, and
    # unwritten ones, of libraries, become its own as soon as other programs end that have them.
    fields = (ME / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in fields if line.startswith("Private_Dirty")) << 10

world = Communicator.world()
right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
last = world.size - 1

def compare(turns, warmup, turn, allowed):
    for number in range(warmup):
        turn(number)
    world.barrier()
    before, names, least = held(), len(os.listdir("/dev/shm")), memory()
    for number in range(turns):
        turn(number)
    world.barrier()
    growth = memory() - least
    assert held() == before, (world.rank, before, held())
    assert growth < allowed, f"rank {world.rank}: {growth} bytes more after {turns} turns"
    # Other programs may come and go.
    assert len(os.listdir("/dev/shm")) < names + turns // 10
    world.barrier()
    if world.rank == 0:
        print("flat")
"""

COMMUNICATORS = """
def turn(number):
    if number % 2:
        part = world.split(world.rank % 2, -world.rank)
    else:
        part = world.group([0, last] if last else [0])
    if part is None:
        return
    algorithm = ("auto", "ring", "mpi")[number % 3]
    assert (part.allreduce(np.ones(5), algorithm=algorithm) == part.size).all()
    part.free()

compare(1000, 100, turn, 4 << 20)
"""

CALLS = """
x, many = np.ones(16), np.ones((world.size, 4), np.float32)

def turn(number):
    match number % 8:
        case 0: world.allreduce(x, algorithm=("auto", "tree", "mpi")[number % 3])
        case 1: world.reduce_scatter(many)
        case 2: world.allgather(x)
        case 3: world.broadcast(x if world.rank == last else None, last)
        case 4: world.alltoall(many)
        case 5: world.gather(x, last)
        case 6: world.iallreduce(x).wait()
        case 7: world.sendrecv(x, right, x, left)

compare(TURNS, 2000, turn, 4 << 20)
"""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_thousand_communicators_leave_nothing(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, HELD + COMMUNICATORS)
    assert (done.returncode, done.stdout.strip()) == (0, "flat"), done.stderr


def test_ten_thousand_small_calls_leave_memory_flat(mpirun: MpiRun) -> None:
    done = mpirun(2, HELD + CALLS.replace("TURNS", "10_000"))
    assert (done.returncode, done.stdout.strip()) == (0, "flat"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_hundred_thousand_small_calls_leave_memory_flat(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, HELD + CALLS.replace("TURNS", "100_000"), timeout=180)
    assert (done.returncode, done.stdout.strip()) == (0, "flat"), done.stderr
