"""Hosts on one machine: they are separate, links have their rate, and nothing stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import hosts
import pytest
from hosts import answer, program, run, start

needs_hosts = pytest.mark.usefixtures("hosts")


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
    time.sleep(0.3)  # MPICH's mpiexec drops what it has not read yet when a rank aborts
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
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run([*arguments, "--", "true"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]


@needs_hosts
def test_a_rate_that_tc_does_not_know_is_refused(tmp_path: Path) -> None:
    done = run(["--rate", "fast", "--", "true"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "one failed: " in done.stderr.splitlines()[-1]


@needs_hosts
def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(["--", "true"], tmp_path)
    assert done.returncode == 2
    assert "apt-get install iproute2" in done.stderr


def test_an_unshare_that_hangs_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: float) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(hosts.subprocess, "run", hang)
    monkeypatch.setattr(hosts.os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts.shutil, "which", lambda tool: tool)
    assert hosts.refusal.__wrapped__() == "namespaces are not made in 10 s"
