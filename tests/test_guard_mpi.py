"""How a program of several ranks ends when one of them fails, under real mpirun."""

import time

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

PROGRAM = """
import sys, threading, time
import numpy as np
from rankwise.collectives import Communicator
from rankwise.models.errors import ModelError
from rankwise.runtime.agreement import gathered, together
from rankwise.runtime.guard import guarded

comm = Communicator.world()

def fail(error):
    raise error

def work():
    BODY
    comm.barrier()
    return 0

sys.exit(guarded(comm, work))
"""

CASES = {
    "exception": ("if comm.rank == 1: {}['gone']", 1, "KeyError: 'gone'"),
    "exception on all": ("raise OSError(5, 'broken pipe')", 1, "broken pipe"),
    "exit with a code": ("if comm.rank == 1: sys.exit(3)", 3, "rank 1 left with sys.exit(3)"),
    "exit without one": ("if comm.rank == 1: sys.exit(0)", 1, "rank 1 left with sys.exit(0)"),
    "exception in a thread": (
        "if comm.rank == 1: threading.Thread(target=fail, args=(OSError('lost'),)).start()",
        1,
        "rankwise: rank 1: lost",
    ),
    "a call that does not fit": (
        "comm.allgather(np.ones((2, comm.rank)))",
        1,
        "expected equal dtypes and shapes",
    ),
    "interrupt": ("if comm.rank == 1: raise KeyboardInterrupt", 130, ""),
    "agreed": (
        "together(comm, lambda: fail(ModelError(f'bad file of rank {comm.rank}')) "
        "if comm.rank else None)",
        2,
        "rankwise: bad file of rank 1\n",
    ),
    "a bug while agreeing": (
        "together(comm, lambda: fail(KeyError(7)) if comm.rank == 2 else None)",
        1,
        "KeyError: 7",
    ),
    "nothing": ("assert gathered(comm, {'r': comm.rank}) == [{'r': r} for r in range(3)]", 0, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_one_message_one_code_and_no_rank_that_hangs(mpirun, name: str) -> None:
    body, code, message = CASES[name]
    start = time.monotonic()
    done = mpirun(3, PROGRAM.replace("BODY", body), timeout=60)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - start < 30
    if message:
        assert done.stderr.count(message.strip()) == 1, done.stderr
    assert done.stderr.count("Traceback") == (1 if "KeyError" in message else 0), done.stderr
    assert done.stderr.count("rankwise: ") == (1 if message and "KeyError" not in message else 0)
