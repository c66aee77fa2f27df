"""The communicator under MPI: the checks of test_communicator.py, and what only MPI has."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

MpiRun = Callable[..., CompletedProcess[str]]

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(150)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_check_holds_between_processes(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, [str(Path(__file__).parent / "test_communicator.py")], timeout=120)
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
import numpy as np, pytest
from rankwise.collectives import CollectiveError, CollectiveTimeout, Communicator, Patience
import rankwise.collectives.mpi as transport
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
transport.LARGEST_MESSAGE = 1000
comm = Communicator.world()
x = np.arange(12345.0) * (comm.rank + 1)
for name in ("ring", "tree", "recursive_doubling"):
    assert (comm.allreduce(x, algorithm=name) == 3 * np.arange(12345.0)).all()
assert (comm.sendrecv(x, peer, x, peer) == np.arange(12345.0) * (peer + 1)).all()
comm.free()

# Freed communicators are given back: MPICH has 2,046.
for _ in range(2100):
    Communicator.world().free()

# A rank that stays silent is given up, and the communicator with it.
impatient = Communicator.world(patience=Patience(warning=0.05, timeout=0.2))
if comm.rank == 0:
    with pytest.raises(CollectiveTimeout, match="rank 0 of 2 has waited for rank 1"):
        impatient.allreduce(np.ones(1 << 20))
    with pytest.raises(CollectiveError, match="broken by CollectiveTimeout"):
        impatient.barrier()
MPI.COMM_WORLD.Barrier()
impatient.free()
if comm.rank == 0:
    print("lived", flush=True)
impatient.abort(5)
"""


def test_it_lives_and_dies_with_mpi(mpirun: MpiRun) -> None:
    done = mpirun(2, LIFE)
    assert (done.returncode, done.stdout.strip()) == (5, "lived"), done.stderr
    assert "rank 0 of 2 has waited for rank 1 for" in done.stderr  # the warning


LONGER = """
import numpy as np
from rankwise.collectives import Communicator, MismatchError

comm = Communicator.world()
left, right = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
for length in (10, 5_000, 70_000, 1 << 20):
    data, guarded = np.full(length, 7, np.uint8), np.zeros(length + 4096, np.uint8)
    out = guarded[: length - 2]
    for how in ("recv", "irecv", "sendrecv", "batch"):
        sent = None if how in ("sendrecv", "batch") else comm.isend(data, right)
        try:
            if how == "recv":
                comm.recv(out, left)
            elif how == "irecv":
                comm.irecv(out, left).wait()
            elif how == "sendrecv":
                comm.sendrecv(data, right, out, left)
            else:
                with comm.batch() as batch:
                    batch.recv(out, left)
                    batch.send(data, right)
        except MismatchError as error:
            assert "longer" in str(error), error
        else:
            raise AssertionError(f"{how} took {length} bytes for {out.size}")
        sent and sent.wait()
        assert not guarded[out.size :].any(), (how, length)
# Receives of one rank and tag take messages in the order in which they were begun.
works = [comm.irecv(np.empty(k + 1, int), left) for k in range(5)]
sends = [comm.isend(np.full(k + 1, k), right) for k in range(5)]
got = [work.wait().tolist() for work in reversed(works)]
assert got == [[k] * (k + 1) for k in range(4, -1, -1)]
[work.wait() for work in sends]
comm.rank or print("well")
"""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_longer_message_is_refused_and_written_nowhere(mpirun, ranks: int) -> None:
    done = mpirun(ranks, LONGER)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
