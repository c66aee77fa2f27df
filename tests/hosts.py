"""Runs programs over hosts that scripts/hosts makes on this machine."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rankwise.runtime.launch import mpirun

SCRIPT = Path(__file__).parents[1] / "scripts" / "hosts"
LIMIT_S = 50

# What Open MPI wants for many ranks on one host, and users may have set: it must not hold here.
ONE_HOST = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


@functools.cache
def refusal() -> str:
    """Why there can be no hosts here, if so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need root on Linux"
    if not all(map(shutil.which, ("ip", "tc", "nsenter", "unshare"))):
        return "hosts need iproute2 and util-linux"
    command = ["unshare", "--net", "--mount", "true"]
    try:
        made = subprocess.run(command, capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return "namespaces are not made in 10 s"
    return "namespaces are refused" if made.returncode else ""


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
