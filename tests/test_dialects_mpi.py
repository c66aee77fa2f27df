"""Every collective of every dialect on real ranks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(180)]

PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dialect_cases import CASES, check
from rankwise.collectives import Communicator
with Communicator.world(checked=True) as comm:
    for name in CASES:
        check(comm, name)
    if comm.rank == 0:
        print(len(CASES), "cases")
"""


@pytest.mark.parametrize(
    "ranks", [3, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (1, 2, 4))]
)
def test_collectives_of_other_dialects_give_what_numpy_gives(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], ranks: int
) -> None:
    done = mpirun(ranks, PROGRAM, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "22 cases\n"
