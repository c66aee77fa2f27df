"""The communicator under MPI: the checks of three modules, and what only MPI has."""

from pathlib import Path

import pytest
from conftest import MpiRun

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(150)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_check_holds_between_processes(mpirun: MpiRun, ranks: int) -> None:
    program = str(Path(__file__).parent / "checking.py")
    modules = ["test_reductions", "test_moves", "test_communicator"]
    done = mpirun(ranks, [program, *modules], timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("checked")


CREATE = """
from rankwise.collectives import communicator
comm = communicator.create()
a = [1, 2, 3]
b = comm.allreduce(a, op=sum)
if comm.rank == 0:
    print(b.tolist())
"""


def test_the_first_example_of_the_lecture_runs(mpirun: MpiRun) -> None:
    done = mpirun(2, CREATE)
    assert (done.returncode, done.stdout.strip()) == (0, "[2, 4, 6]"), done.stderr


LIFE = """
import time
import numpy as np, pytest
from rankwise.collectives import CollectiveError, CollectiveTimeout, Communicator, Patience
from rankwise.collectives import MismatchError, inbox
from mpi4py import MPI

with Communicator(MPI.COMM_WORLD) as comm:
    # MPI's own communicator and ours do not see each other's messages.
    peer = 1 - comm.rank
    MPI.COMM_WORLD.send("mpi", peer, 1)
    comm.send([7], peer, 0)
    assert comm.recv(np.empty(1, int), peer, 0)[0] == 7
    assert MPI.COMM_WORLD.recv(source=peer, tag=1) == "mpi"
for wrong in (MPI.COMM_NULL, MPI.COMM_SELF.Create_intercomm(0, MPI.COMM_WORLD, peer)):
    with pytest.raises(ValueError):
        Communicator(wrong)

# Long messages are split.
inbox.LARGEST_MESSAGE = 1000
comm = Communicator.world()
x = np.arange(12345.0) * (comm.rank + 1)
for name in ("ring", "tree", "recursive_doubling"):
    assert (comm.allreduce(x, algorithm=name) == 3 * np.arange(12345.0)).all()
assert (comm.sendrecv(x, peer, x, peer) == np.arange(12345.0) * (peer + 1)).all()
for sent, length in ((1000, 1000), (1000, 2000), (2000, 1000), (0, 1000), (3000, 2500), (999, 0)):
    other = comm.isend(np.full(sent, 7, np.uint8), peer)
    following = comm.isend([sent], peer)
    try:
        assert (comm.recv(np.empty(length, np.uint8), peer) == 7).all() and sent == length
    except MismatchError as error:
        assert f"got a {'long' if sent > length else 'short'}er message of {sent} b" in str(error)
    assert comm.recv([0], peer) == [sent]
    other.wait(), following.wait()
comm.free()

# Freed communicators are given back: MPICH has 2,046.
for _ in range(2100):
    Communicator.world().free()

# A rank that stays silent is given up, and the communicator with it.
impatient = Communicator.world()
impatient._transport.patience = Patience(warning=0.05, timeout=0.2)
if comm.rank == 0:
    with pytest.raises(CollectiveTimeout, match="rank 0 of 2 has waited for rank 1"):
        impatient.allreduce(np.ones(1 << 20))
    with pytest.raises(CollectiveError, match="broken by CollectiveTimeout"):
        impatient.barrier()
MPI.COMM_WORLD.Barrier()
impatient.free()
if comm.rank == 0:
    print("lived", flush=True)
    time.sleep(0.3)  # MPICH's mpiexec drops what it has not read yet when a rank aborts
MPI.COMM_WORLD.Barrier()
impatient.abort(5)
"""


def test_it_lives_and_dies_with_mpi(mpirun: MpiRun) -> None:
    done = mpirun(2, LIFE)
    assert (done.returncode, done.stdout.strip()) == (5, "lived"), done.stderr
    assert "rank 0 of 2 has waited for rank 1 for" in done.stderr  # the warning
