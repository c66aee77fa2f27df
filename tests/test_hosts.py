"""Hosts on one machine: they are separate, ranks know it, and nothing of them stays."""

import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rankwise.collectives.algorithms.hierarchical import hierarchical_allreduce
from rankwise.collectives.algorithms.ring import ring_allreduce
from rankwise.collectives.cost import moved
from rankwise.collectives.schedule import Algorithm, Send, schedule
from rankwise.runtime.launch import mpirun

SCRIPT = Path(__file__).parents[1] / "scripts" / "hosts"
LIMIT_S = 50

# What Open MPI wants for many ranks on one host, and users may have set: it must not hold here.
ONE_HOST = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}

# Ranks of each host, and an order of ranks in which those of a host are never neighbours.
CLUSTERS = [((3, 2, 1), (0, 3, 1, 4, 2, 5)), ((2, 2), (0, 2, 1, 3))]


@functools.cache
def refusal() -> str:
    """Why there can be no hosts here, if so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need root on Linux"
    if not all(map(shutil.which, ("ip", "tc", "nsenter", "unshare"))):
        return "hosts need iproute2 and util-linux"
    made = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True)
    return "namespaces are refused" if made.returncode else ""


needs_hosts = pytest.mark.skipif(bool(refusal()), reason=refusal())


def start(arguments: Sequence[str], folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the script; its own files go to `folder`."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        env=os.environ | ONE_HOST | {"TMPDIR": str(folder), "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    process = start(arguments, folder)
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        stdout, stderr = process.communicate(timeout=10)
        pytest.fail(f"{arguments} ran for more than {LIMIT_S} s\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def program(source: str, folder: Path, ranks: int, *arguments: str) -> list[str]:
    """The command that runs a program on so many ranks."""
    path = folder / "program.py"
    path.write_text(source)
    return [str(mpirun()), "-n", str(ranks), sys.executable, str(path), *arguments]


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """What rank 0 printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CLUSTER = """
import json, socket, sys
from pathlib import Path
import numpy as np
from mpi4py import MPI
from rankwise.collectives import Communicator

def values(rank):
    return np.random.default_rng(rank).integers(-1000, 1000, 100_003)

def sent():
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())

def check(comm):
    total = sum(values(rank) for rank in range(comm.size))
    for x in (values(comm.rank), values(comm.rank)[:5]):
        found = comm.allreduce(x, algorithm="hierarchical")
        assert np.array_equal(found, total[: x.size]), (comm.rank, x.size)
        assert np.array_equal(comm.allreduce(x), total[: x.size]), (comm.rank, x.size)
    for root in range(comm.size):
        x = values(root) if comm.rank == root else None
        found = comm.broadcast(x, root, algorithm="hierarchical")
        assert np.array_equal(found, values(root)), (comm.rank, root)
    inside = comm._nodes.inside
    assert (inside._shared is not None) == (len(comm.node_ranks) > 1)
    assert inside.rank == 0 or inside._shared.rings[inside.rank].any()  # lent to the first

def counted(comm, algorithm):
    x = np.ones(1 << 20, np.float32)
    comm.allreduce(x, algorithm=algorithm)  # connects
    found = []
    for _ in range(3):  # of which the least: TCP may send something twice
        comm.barrier()
        before = sent()
        comm.barrier()
        comm.allreduce(x, algorithm=algorithm)
        comm.barrier()
        found.append(sent() - before)
    return min(found)

world = Communicator.world()
check(world)
mixed = world.group(json.loads(sys.argv[1]))
check(mixed)
bytes_sent = {name: counted(mixed, name) for name in ("ring", "hierarchical")}
mine = mixed.rank, socket.gethostname(), world.node_ranks, mixed.node_ranks, bytes_sent
rows = MPI.COMM_WORLD.gather(mine)
if world.rank == 0:
    print(json.dumps(rows))
"""


@needs_hosts
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("slots", "order"), CLUSTERS)
def test_ranks_know_their_host_and_save_its_link(
    tmp_path: Path, slots: tuple[int, ...], order: tuple[int, ...]
) -> None:
    """Also that hierarchical collectives equal numpy's, which the program checks."""
    command = program(CLUSTER, tmp_path, len(order), json.dumps(order))
    rows = answer(run(["--slots", ",".join(map(str, slots)), "--", *command], tmp_path))
    nodes = [node for node, count in enumerate(slots) for _ in range(count)]
    mixed = [nodes[rank] for rank in order]
    for rank, (position, name, here, here_mixed, _) in enumerate(rows):
        assert (name, order[position]) == (f"host{nodes[rank]}", rank)
        assert here == [q for q in range(len(nodes)) if nodes[q] == nodes[rank]]
        assert here_mixed == [q for q in range(len(nodes)) if mixed[q] == nodes[rank]]
    expected = {
        "ring": leaving(ring_allreduce, mixed),
        "hierarchical": leaving(hierarchical_allreduce, mixed, nodes=tuple(mixed)),
    }
    for rank, (*_, sent) in enumerate(rows):
        for name, nbytes in expected.items():
            least = nbytes[nodes[rank]]
            # Headers, acknowledgements and two barriers come on top.
            assert least <= sent[name] <= 1.05 * least + 20_000, (name, rank)
    assert sum(expected["hierarchical"]) < sum(expected["ring"]) / 2


def leaving(algorithm: Algorithm, node: Sequence[int], **options: Any) -> list[int]:
    """The bytes of an allreduce of 4 MiB that leave each node, as the schedule has them.

    `node` gives the node of each rank.
    """
    size = len(node)
    ends = [4 * (part * (1 << 20) // size) for part in range(size + 1)]
    sizes = [b - a for a, b in itertools.pairwise(ends)]
    sent = [0] * len(set(node))
    for rank, rounds in enumerate(schedule(algorithm, size, **options)):
        for steps in rounds:
            out = tuple(s for s in steps if isinstance(s, Send) and node[s.peer] != node[rank])
            sent[node[rank]] += moved(out, rank, Send, sizes)
    return sent


RATE = """
import json, time
import numpy as np
from mpi4py import MPI
comm, big, small = MPI.COMM_WORLD, np.ones(4 << 20, np.uint8), np.empty(1, np.uint8)
times = []
for _ in range(3):
    comm.Barrier()
    start = time.perf_counter()
    if comm.rank == 0:
        comm.Send(big, 1)
        comm.Recv(small, 1)
    else:
        comm.Recv(big, 0)
        comm.Send(small, 0)
    times.append(time.perf_counter() - start)
if comm.rank == 0:
    print(json.dumps(times))
"""


@needs_hosts
@pytest.mark.mpi
@pytest.mark.timeout(60)
def test_a_link_has_the_rate_that_was_asked_for(tmp_path: Path) -> None:
    arguments = ["-n", "2", "--slots", "1", "--rate", "200mbit"]
    times = answer(run([*arguments, "--", *program(RATE, tmp_path, 2)], tmp_path))
    seconds = (4 << 20) / 25e6
    assert 0.95 * seconds < min(times) < 1.2 * seconds, times


def traces(folder: Path) -> list[str]:
    """What hosts could leave on the machine."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True)
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    mounts = Path("/proc/self/mounts").read_text()
    left = sorted(map(str, folder.glob("hosts-*")))
    return [*links.stdout.splitlines(), *names.stdout.splitlines(), *mounts.splitlines(), *left]


def living(networks: Sequence[str]) -> list[str]:
    """The processes that are in any of these network namespaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns" / "net") in networks:
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended
            continue
    return found


# Every rank tells its network, and then fails, or sleeps until it is stopped.
END = """
import os, sys, time
from mpi4py import MPI
comm = MPI.COMM_WORLD
networks = comm.gather(os.readlink("/proc/self/ns/net"))
if comm.rank == 0:
    print(*networks, flush=True)
comm.Barrier()
if sys.argv[1] == "fail":
    comm.Abort(3)
if sys.argv[1] == "sleep":
    time.sleep(1000)
"""


@needs_hosts
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("what", "number", "code"),
    [
        ("succeed", None, 0),
        ("fail", None, 3),
        ("sleep", signal.SIGINT, 130),
        ("sleep", signal.SIGTERM, 143),
        ("sleep", signal.SIGKILL, -9),
    ],
)
def test_nothing_stays_behind(
    tmp_path: Path, what: str, number: signal.Signals | None, code: int
) -> None:
    before = traces(tmp_path)
    command = program(END, tmp_path, 4, what)
    with start(["-n", "2", "--", *command], tmp_path) as process:
        try:
            assert process.stdout is not None
            networks = process.stdout.readline().split()
            assert len(set(networks)) == 2
            if number is not None:
                assert len(living(networks)) >= 6  # four ranks, and what holds the hosts
                process.send_signal(number)
            process.communicate(timeout=20)
            assert process.returncode == code
        finally:
            process.terminate()
    if number is signal.SIGKILL:  # nobody waits for the end of the hosts, or empties the folder
        shutil.rmtree(next(tmp_path.glob("hosts-*")))
        until = time.monotonic() + 10
        while living(networks) and time.monotonic() < until:
            time.sleep(0.1)
    assert living(networks) == []
    assert traces(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "expected 1 to 64 hosts"),
        (["-n", "3", "--slots", "2,2"], "one number or of one for each, got -n 3 --slots 2,2"),
        (["--slots", "2,x"], "expected positive numbers in --slots, got '2,x'"),
        pytest.param(["--rate", "fast"], "one failed: ", marks=needs_hosts),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run([*arguments, "--", "true"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]


@needs_hosts
def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(["--", "true"], tmp_path)
    assert done.returncode == 2
    assert "apt-get install iproute2" in done.stderr
