"""Messages between processes: longer ones than expected, and long ones in batches."""

import pytest
from conftest import MpiRun

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(150)]

START = """
import mpi4py
mpi4py.rc.thread_level = "{level}"
import numpy as np
from rankwise.collectives import Batch, CollectiveError, Communicator, MismatchError

comm = Communicator.world()
left, right = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
"""

LONGER = """
def exchange(how, data, out):
    if how == "sendrecv":
        return comm.sendrecv(data, right, out, left)
    if how == "batch":
        with comm.batch() as batch:
            batch.recv(out, left)
            batch.send(data, right)
        return
    sent = comm.isend(data, right)
    try:
        comm.recv(out, left) if how == "recv" else comm.irecv(out, left).wait()
    finally:
        sent.wait()

for length in (10, 5_000, 70_000, 1 << 20):
    data, guarded = np.full(length, 7, np.uint8), np.zeros(length + 4096, np.uint8)
    out = guarded[: length - 2]
    for how in ("recv", "irecv", "sendrecv", "batch"):
        try:
            exchange(how, data, out)
        except MismatchError as error:
            assert f"expected {length - 2} bytes" in str(error), error
            assert f"longer message of {length} bytes" in str(error), error
        else:
            raise AssertionError(f"{how} took {length} bytes for {out.size}")
        assert not guarded.any(), (how, length)
comm.rank or print("well")
"""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_longer_message_is_refused_and_written_nowhere(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, START.format(level="multiple") + LONGER)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


CROSSED = """
LONG, PARTS, TAGS = 1 << 20, 3, (0, 1)  # 8 MiB each

def filled(batch, number):
    return np.full(LONG, 100.0 * batch + 10 * number + comm.rank)

batches, expected = [], []
for tag in TAGS:
    batches.append(Batch(comm))
    for number in range(PARTS):
        batches[-1].send(filled(tag, number), right, tag)
    for number in range(PARTS):
        got = batches[-1].recv(np.empty(LONG), left, tag)
        expected.append((got, 100.0 * tag + 10 * number + left))
# Every other rank completes the second one first.
for batch in batches[:: 1 if comm.rank % 2 else -1]:
    batch.complete()
assert all((got == value).all() for got, value in expected)

# What was begun goes on while this rank waits for something else.
x = np.full(LONG, comm.rank)
for wait in (comm.barrier, lambda: comm.allreduce(x, algorithm="ring")):
    received, sent = comm.irecv(np.empty(LONG, int), left), comm.isend(x, right)
    wait()
    sent.wait()
    assert (received.wait() == left).all()
received = comm.irecv(np.empty(LONG, int), left)
comm.send(x, right)
assert (received.wait() == left).all()

# Receives take messages in the order in which they were begun, whichever is waited for first.
works = [comm.irecv(np.empty(k + 1, int), left) for k in range(5)]
sends = [comm.isend(np.full(k + 1, k), right) for k in range(5)]
got = [work.wait().tolist() for work in reversed(works)]
assert got == [[k] * (k + 1) for k in range(4, -1, -1)]
[work.wait() for work in sends]

# An error ends a batch when all else in it is done.
try:
    with comm.batch() as batch:
        short = batch.recv(np.empty(3), left)
        whole = batch.recv(np.empty(LONG), left)
        shorter = batch.recv(np.empty(5), left)
        for count in (4, LONG, 4):
            batch.send(np.full(count, 7.0), right)
except MismatchError as error:
    assert "expected 24 bytes" in str(error), error
    assert (whole == 7).all()
else:
    raise AssertionError("expected MismatchError")
assert comm.allreduce(1) == comm.size

# What waits when a communicator is freed says so, and holds nobody up.
other = comm.split(0)
work = other.irecv([0], left)
other.free()
assert comm.sendrecv([comm.rank], right, [0], left) == [left]
try:
    work.wait(20)
except CollectiveError as error:
    assert "freed before a message of rank" in str(error), error
else:
    raise AssertionError("expected CollectiveError")
comm.rank or print("well")
"""


@pytest.mark.parametrize("level", ["multiple", "serialized"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_long_messages_do_not_wait_for_one_another(mpirun: MpiRun, ranks: int, level: str) -> None:
    done = mpirun(ranks, START.format(level=level) + CROSSED)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


DROPPED = """
import gc

class Loop:
    def __init__(self):
        self.itself, self.batch = self, Batch(comm.group([0]))
        self.batch.recv(np.empty(2000), 0, 5)

gc.collect()
gc.disable()
for turn in range(120):
    Loop()  # nobody has it, and it ends when garbage is collected
    work = comm.irecv(np.empty(4), 0, 1)
    gc.set_threshold(gc.get_count()[0] + 1 + turn % 60, 10, 10)
    gc.enable()
    for _ in range(20):
        work.test()
    gc.disable()
    comm.send(np.zeros(4), 0, 1)
    work.wait()
print("well")
"""


def test_receives_may_be_dropped_wherever_garbage_is_collected(mpirun: MpiRun) -> None:
    done = mpirun(1, START.format(level="multiple") + DROPPED, timeout=20)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
