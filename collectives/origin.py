"""Where and when something was measured."""

from __future__ import annotations

import datetime
import os
import socket
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What a measured file says of itself; nothing is decided by it."""

    when: str
    """local time, as in 2026-11-21T12:40:00+01:00"""
    host: str
    mpi: str
    """library and version, as in Open MPI v5.0.11; "no MPI" between threads"""
    cores: int
    """that the process may use"""

    def __post_init__(self) -> None:
        for name in ("when", "host", "mpi"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"expected {name} to be a text, got {getattr(self, name)!r}")
        if not isinstance(self.cores, int) or self.cores < 1:
            raise ValueError(f"expected cores of at least 1, got {self.cores!r}")

    @classmethod
    def here(cls) -> Origin:
        """This process, now."""
        now = datetime.datetime.now().astimezone()
        return cls(
            when=now.isoformat(timespec="seconds"),
            host=socket.gethostname(),
            mpi=mpi_library(),
            cores=len(os.sched_getaffinity(0)),
        )

    def __str__(self) -> str:
        return f"{self.host}, {self.mpi}, {self.cores} cores, {self.when}"


def mpi_library() -> str:
    """Name the MPI library that this process has started; "no MPI" if it has not."""
    # Asked for where it is already loaded: an import would start MPI.
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized():
        return "no MPI"
    first: str = mpi.Get_library_version().split(",")[0].splitlines()[0]
    return " ".join(first.rstrip("\0 ").split())
