"""Fixtures that several tests use."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hosts import refusal

from rankwise.runtime.launch import command

MpiRun = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker have all tests that start MPI: two at once would have too many ranks."""
    for item in items:
        if item.get_closest_marker("mpi"):
            item.add_marker(pytest.mark.xdist_group("mpi"))


@pytest.fixture
def mpirun(tmp_path: Path) -> MpiRun:
    """Start `mpirun(ranks, program, timeout=60)` and return the completed process.

    `program` is a list of arguments to the Python interpreter, or the source of a script.
    """

    def run(
        ranks: int, program: str | Sequence[str], timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        if isinstance(program, str):
            script = tmp_path / "program.py"
            script.write_text(program)
            program = [str(script)]
        start = command(ranks, [sys.executable, *program])
        process = subprocess.Popen(
            start.argv,
            env=os.environ | start.env | {"PYTHONWARNINGS": "error"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as error:
            stdout, stderr = end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            pytest.fail(f"{ranks} ranks ran for more than {timeout} s\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(start.argv, process.returncode, stdout, stderr)

    return run


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End mpirun, which ends its ranks when it is asked; what does not obey is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            return process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    return "", "(the ranks outlived mpirun)"


@pytest.fixture(scope="session")
def hosts() -> None:
    """Skip where scripts/hosts can make none."""
    if reason := refusal():
        pytest.skip(reason)
