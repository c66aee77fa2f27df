"""Memory between processes: where it is refused, and when one of them dies.

The latter without MPI, which would end all others.
"""

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from conftest import MpiRun

from rankwise.collectives import (
    Patience,
    RankFailure,
)
from rankwise.collectives import segment as segments
from rankwise.collectives.allreduce import described, one_shot, single_copy, two_shot
from rankwise.collectives.attach import address, attached
from rankwise.collectives.reduction import REDUCTIONS
from rankwise.collectives.shared import Shared
from rankwise.collectives.sharing import share
from rankwise.collectives.transport import Transport
from rankwise.collectives.waiting import finish

Array = np.ndarray[Any, np.dtype[Any]]


WAYS = {"one_shot": one_shot, "two_shot": two_shot, "single_copy": single_copy}

REFUSED = """
import os
from rankwise.collectives import Communicator

comm = Communicator.world()
if comm.rank == 1:
    def refuse(*_):
        raise PermissionError
    {what} = refuse
assert (comm.allreduce([1.5]) == 3).all()
assert (comm.allreduce([1.5], algorithm="two_shot") == 3).all()
assert comm._shared is None
print("messages")
"""

UNREADABLE = """
import numpy as np
from rankwise.collectives import Communicator, attach

with Communicator.world() as comm:
    x = np.full(5_000_000, comm.rank + 1.0, np.float32)
    assert comm.rank != 1 or setattr(attach, "MOST", -1) is None  # so the kernel refuses
    assert (comm.allreduce(x) == comm.size * (comm.size + 1) / 2).all()
    assert (comm.allreduce(x, algorithm="single_copy") == comm.size * (comm.size + 1) / 2).all()
    if comm.rank == 0:
        for name in ("auto", "single_copy"):
            print(comm.explain("allreduce", x.nbytes, algorithm=name))
"""


@pytest.mark.mpi
@pytest.mark.parametrize("what", ["os.memfd_create", "os.open"])
def test_messages_are_used_where_one_rank_is_refused(mpirun: MpiRun, what: str) -> None:
    done = mpirun(2, REFUSED.format(what=what))
    assert (done.returncode, done.stdout.count("messages")) == (0, 2), done.stderr


@pytest.mark.mpi
def test_the_ring_is_used_where_one_rank_may_not_read_the_others(mpirun: MpiRun) -> None:
    done = mpirun(3, UNREADABLE)
    assert done.returncode == 0, done.stderr
    auto, asked = done.stdout.splitlines()
    assert auto.startswith("two_shot: all ranks share memory")
    assert asked == "two_shot: the ranks may not read each other's own memory"


def test_the_memory_of_a_process_is_read_where_its_token_is() -> None:
    token, x = np.array([77], np.int64), np.arange(5.0)
    process = attached(os.getpid(), address(token), 77)
    assert process is not None
    found = np.empty(3)
    process.read(address(x) + 8, address(found), 24)
    assert found.tolist() == [1, 2, 3]
    with pytest.raises(OSError, match="cannot read 8 B of process"):
        process.read(8, address(found), 8)
    assert attached(os.getpid(), address(token), 78) is None
    assert attached(os.getpid(), 8, 77) is None
    assert attached(1 << 22, address(token), 77) is None  # above the largest number of a process


def test_where_an_array_begins() -> None:
    x = np.arange(12.0).reshape(3, 4)
    fixed = x[1:]
    fixed.flags.writeable = False
    for one in (x, x[1], fixed, x[3:]):
        assert address(one) == one.ctypes.data


def test_a_segment_of_another_process_is_known_by_its_token() -> None:
    fd, memory = segments.created(4096)
    assert memory is not None
    token, pid = int.from_bytes(memory[:8], "little"), os.getpid()
    other = segments.opened(pid, fd, token, 4096)
    assert other is not None
    memory[100] = 7
    assert other[100] == 7
    assert segments.opened(pid, fd, token + 1, 4096) is None
    assert segments.opened(pid, fd, token, 8192) is None  # a shorter file
    assert segments.opened(pid, 0, token, 4096) is None
    os.close(fd)
    assert segments.opened(pid, fd, token, 4096) is None
    assert other[100] == 7


def test_other_processors_have_no_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert segments.created(4096) == (-1, None)


class Neighbour:
    """As much of a transport as shared memory needs, between forks of this process."""

    has_processes = True
    bytes_sent = 0
    patience = Patience(timeout=20)
    looks = 10

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.node_ranks = rank, size, tuple(range(size))

    def progress(self) -> None:
        """No messages are under way."""

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def between_forks(size: int, work: Callable[[Shared], str]) -> list[str]:
    """Let `work` run in so many processes; what it returned, "" of those that were killed."""
    pipes = [[os.pipe() for _ in range(size)] for _ in range(size)]
    answers = [os.pipe() for _ in range(size)]
    pids = []
    for rank in range(size):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                answer = work(joined(rank, size, pipes))
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(answers[rank][1], answer.encode())
            os._exit(0)
    said = []
    for pid, (reading, writing) in zip(pids, answers, strict=True):
        os.waitpid(pid, 0)
        os.close(writing)
        said.append(os.read(reading, 4096).decode())
        os.close(reading)
    for fd in itertools.chain.from_iterable(itertools.chain.from_iterable(pipes)):
        os.close(fd)
    return said


def joined(rank: int, size: int, pipes: list[list[tuple[int, int]]]) -> Shared:
    async def tell(mine: Sequence[int]) -> list[list[int]]:
        for other in range(size):
            os.write(pipes[rank][other][1], np.array(mine, np.int64).tobytes())
        came = [os.read(pipes[other][rank][0], 8 * len(mine)) for other in range(size)]
        return [np.frombuffer(row, np.int64).tolist() for row in came]

    transport = cast(Transport, Neighbour(rank, size))
    found = finish(share(transport, tell), transport)
    assert found is not None
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", WAYS)
def test_a_rank_that_is_killed_is_named_at_once(name: str) -> None:
    def work(shared: Shared) -> str:
        x = np.ones(300_000, np.float32)
        what = described(name, "sum", x.dtype, x.shape)
        way = WAYS[name]
        for turn in range(100):
            if shared.rank == 1 and turn == 50:
                os.kill(os.getpid(), signal.SIGKILL)
            started = time.monotonic()
            try:
                finish(way(shared, what, x, x.copy(), REDUCTIONS["sum"]), shared.transport)
            except RankFailure as error:
                assert turn == 50 and time.monotonic() - started < 2
                return str(error)
        return "unharmed"

    # The parent reaps rank 0 first, so rank 1 is a zombie while the others look for it.
    said = between_forks(3, work)
    for answer in (said[0], said[2]):
        assert re.fullmatch(r"rank 1 \(process \d+\) ended in a call of allreduce", answer), said
    assert said[1] == ""
