"""What ranks hear of one that is wrong alone: that it has left, or calls in another form."""

import subprocess
from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]

MpiRun = Callable[..., subprocess.CompletedProcess[str]]

LEAVING = """
import atexit, os, sys
import numpy as np
from rankwise.collectives import CollectiveError, Communicator, Patience

how, x = HOW, np.ones(1 << 18)
comm = Communicator.world(patience=Patience(timeout=40))
comm.allreduce(x)
if comm.rank == 1:
    if os.fork() == 0:  # a child ends, and tells nobody anything
        atexit._run_exitfuncs()
        os._exit(0)
    os.wait()
comm.allreduce(x)
try:
    if how == "with":
        with comm:
            comm.reduce(x, root=7) if comm.rank == 1 else comm.allgather(x)
    elif comm.rank == 1:
        sys.exit(3) if how == "end" else comm.reduce(x, "summ")
    else:
        comm.allreduce(x) if how == "end" else comm.reduce(x)
except CollectiveError as error:
    if comm.rank == 0:
        print(error, flush=True)
except ValueError:
    if how != "with":
        raise
    assert "broken by ValueError" in repr(comm)
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("error", "ValueError: expected an op of sum, "),
        ("end", "its program ended\n"),
        ("with", "ValueError: expected root from 0 to 2, got 7\n"),
    ],
)
def test_ranks_hear_why_another_one_left(mpirun: MpiRun, how: str, reason: str) -> None:
    done = mpirun(3, LEAVING.replace("HOW", repr(how)), timeout=30)
    assert done.stdout.startswith(f"rank 1 gave up: {reason}"), (done.stdout, done.stderr)
    assert (done.returncode == 0) == (how == "with")


FORMS = """
import os
import numpy as np
from rankwise.collectives import Communicator, MismatchError

def refused(*arguments):
    raise OSError("refused")

if not SHARES:
    os.memfd_create = refused
comm = Communicator.world(checked=True)
x = np.arange(5.0)
for name in ("allreduce", "reduce", "reduce_scatter", "allgather", "broadcast", "barrier"):
    given = [] if name == "barrier" else [x]
    blocking = getattr(comm, name)
    for begins in ([1], [0, 2], []):
        try:
            if comm.rank in begins:
                getattr(comm, f"i{name}")(*given, algorithm="mpi").wait()
            else:
                blocking(*given, algorithm="mpi")
        except MismatchError as error:
            said = str(error)
            assert begins and f"{name} by MPI's call that blocks" in said, (name, error)
            assert f"{name} by MPI's call begun" in said and said.count("rank") == 2, error
        else:
            assert not begins, name
assert (comm._shared is not None) == SHARES
assert np.array_equal(comm.iallreduce(x, algorithm="mpi").wait(), 3 * x)
if comm.rank == 0:
    print("raised")
"""


@pytest.mark.parametrize("shares", [True, False])
def test_a_form_of_mpis_call_that_only_some_take_is_refused(mpirun: MpiRun, shares: bool) -> None:
    done = mpirun(3, FORMS.replace("SHARES", str(shares)), timeout=40)
    assert (done.returncode, done.stdout) == (0, "raised\n"), done.stderr
