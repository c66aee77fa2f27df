"""Ranks that stay: one mpirun for many small jobs, told by the pytest process what to do.

Hypothesis must draw in one place only (inside every rank it would shrink out of step), and a start
of mpirun costs a second. So the ranks of rank_worker.py connect here, each by a socket of its own,
and a job is a pickle to each of them.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rankwise.runtime.launch import command

PROGRAM = Path(__file__).parent / "rank_worker.py"
START_S = 60.0
GRACE_S = 5.0
PROTOCOL = 5  # by the default one a 0-d array of numpy loses its byte order
DUMP_S = 1.0  # before the time is up, ranks that hang say where, and end themselves


class Runs(Protocol):
    """What a rank is sent: run(worlds) yields its answers."""

    def run(self, worlds: Any) -> Any: ...


class PoolError(AssertionError):
    """Ranks died, or did not answer in time."""


class Pool:
    """So many ranks, started when they are needed, and again after they were lost."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.running: Running | None = None
        self.losses = 0

    def ask(self, jobs: Sequence[Runs], limit: float) -> list[list[Any]]:
        """Send one job to each rank; return the answers of each, by rank.

        PoolError, with what came and what the ranks printed, after `limit` seconds or a death.
        """
        if len(jobs) != self.ranks:
            raise ValueError(f"expected {self.ranks} jobs, got {len(jobs)}")
        if self.running is None:
            self.running = Running(self.ranks)
        try:
            return self.running.ask(jobs, limit)
        except BaseException:
            self.losses += 1
            self.abandon()
            raise

    def close(self) -> None:
        """Let the ranks end, and see that they do it well."""
        if self.running is not None:
            code = self.running.end()
            self.running = None
            assert code == 0, f"expected mpirun to end with 0, got {code}"

    def abandon(self) -> None:
        """End the ranks at once; the next job starts new ones."""
        if self.running is not None:
            self.running.end(at_once=True)
            self.running = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self.close()


class Running:
    """One mpirun and a connection to each of its ranks."""

    def __init__(self, ranks: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="rankwise-pool-")
        self.output = open(Path(self.folder.name) / "output", "w+b")  # noqa: SIM115 - see end
        address = str(Path(self.folder.name) / "socket")
        self.connections: list[Connection] = []
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            server.listen(ranks)
            start = command(ranks, [sys.executable, str(PROGRAM), address])
            self.process = subprocess.Popen(
                start.argv,
                env=os.environ | start.env | {"PYTHONWARNINGS": "error"},
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=self.output,
                start_new_session=True,
            )
            try:
                self.connections = accepted(server, ranks, self.process)
            except BaseException as error:
                printed = self.printed()
                self.end(at_once=True)
                if isinstance(error, TimeoutError):
                    raise PoolError(f"{ranks} ranks did not start\n{printed}") from error
                raise

    def ask(self, jobs: Sequence[Runs], limit: float) -> list[list[Any]]:
        deadline = time.monotonic() + limit
        answers: list[list[Any]] = [[] for _ in jobs]
        waiting = dict(zip(self.connections, answers, strict=True))
        for connection, job in zip(self.connections, jobs, strict=True):
            connection.send_bytes(pickle.dumps((job, limit - DUMP_S), PROTOCOL))
        while waiting:
            ready = wait(list(waiting), deadline - time.monotonic())
            if not ready:
                raise PoolError(self.report(f"no answer in {limit} s", waiting, answers))
            for connection in (each for each in waiting.copy() if each in ready):
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionError):
                    ended(self.process)  # by then the reason is printed
                    raise PoolError(self.report("ranks ended", waiting, answers)) from None
                if answer is None:
                    del waiting[connection]
                else:
                    waiting[connection].append(answer)
        return answers

    def report(self, what: str, waiting: dict[Connection, Any], answers: list[list[Any]]) -> str:
        """What is known about ranks that are lost."""
        silent = [r for r, connection in enumerate(self.connections) if connection in waiting]
        came = "\n".join(f"rank {rank} answered {got}" for rank, got in enumerate(answers))
        return f"{what}, ranks {silent} not done\n{came}\n{self.printed()}"

    def printed(self) -> str:
        """The end of what all ranks wrote."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")[-6000:]

    def end(self, *, at_once: bool = False) -> int:
        """Ranks that wait end when their socket does; mpirun ends the others when it is asked."""
        for connection in self.connections:
            connection.close()
        code = None if at_once else ended(self.process)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if code is None and self.process.poll() is None:
                os.killpg(self.process.pid, number)
                code = ended(self.process)
        self.output.close()
        self.folder.cleanup()
        return self.process.wait()


def ended(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code, if it comes in time."""
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        return None


def accepted(
    server: socket.socket, ranks: int, process: subprocess.Popen[bytes]
) -> list[Connection]:
    """The connections of all ranks, by rank. TimeoutError if they do not come."""
    server.settimeout(0.5)
    deadline = time.monotonic() + START_S
    found: dict[int, Connection] = {}
    while len(found) < ranks:
        try:
            connection = Connection(server.accept()[0].detach())
        except TimeoutError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            continue
        found[connection.recv()] = connection
    return [found[rank] for rank in range(ranks)]
