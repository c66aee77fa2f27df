"""The environment variables with which this process was started; launch.py has those it sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
"""What Open MPI's mpirun, srun --mpi=pmix, and MPICH's mpirun tell a process."""

SCRATCH = "RANKWISE_SCRATCH"
"""The variable that names the folder of ranks that the launcher has started."""


def mpirun_rank() -> int | None:
    """Return the rank that a launcher has given this process, None without a launcher."""
    for name in RANK_VARIABLES:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return None


def missing(names: Iterable[str]) -> list[str]:
    """Return those of the variables that are not set."""
    return [name for name in names if name not in os.environ]


def with_added(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with these variables, to start another with."""
    return {**os.environ, **variables}


def scratch_folder() -> str | None:
    """Return where scratch files go; None for where those of all programs do."""
    return os.environ.get(SCRATCH)
