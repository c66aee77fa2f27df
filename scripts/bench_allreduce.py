"""Time allreduce by algorithm, beside MPI's own: mpirun -n 4 python scripts/bench_allreduce.py

Prints a markdown table: the median over the repetitions, in microseconds, of the slowest rank, and
in brackets the ratio of the upper to the lower quartile. Calls alternate in an order that turns
round every time, with a barrier before each and buffers in rotation, from one array into another;
`here` are those in place. `mpi` is mpi4py's own Allreduce, called directly. `empty` is auto on an
array from comm.empty into another, `view` from one into a shared result, `copy` what every rank
needs at the same time to copy as much.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import shlex
import sys
import time

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from rankwise.collectives import Communicator
from rankwise.collectives.table import TABLE

SIZES = [1 << k for k in range(10, 27, 2)]  # bytes
BUFFERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each call and size")
    known = list(TABLE["allreduce"])
    parser.add_argument("--names", nargs="*", default=known, choices=known, help="algorithms")
    given = parser.parse_args()
    with Communicator.world() as comm:
        names = [*given.names, "copy", "view", "empty", "auto here", "mpi here", "auto", "mpi"]
        if comm.rank == 0:
            print(heading(comm.size))
            print(f"| bytes | {' | '.join(names)} | mpi / auto |")
            print("|---" * (len(names) + 2) + "|")
        for nbytes in SIZES:
            times = measured(comm, names, nbytes, given.seconds)
            if comm.rank == 0:
                print(line(nbytes, times), flush=True)


def heading(ranks: int) -> str:
    """What was run, when, and on what."""
    first = MPI.Get_library_version().partition(",")[0].partition("\n")[0]
    version = " ".join(first.split())
    return (
        f"\nfloat32 allreduce, {ranks} ranks, {version}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {datetime.date.today()}\n\n"
        f"    mpirun -n {ranks} python {shlex.join(sys.argv)}\n"
    )


def measured(
    comm: Communicator, names: list[str], nbytes: int, seconds: float
) -> list[NDArray[np.float64]]:
    """The times of every algorithm, in seconds: the slowest rank of each repetition."""
    count = nbytes // 4
    buffers = [np.ones(count, np.float32) for _ in range(BUFFERS)]
    born = [(comm.empty(count, "f4"), comm.empty(count, "f4")) for _ in range(BUFFERS)]
    plain = [(x, np.ones(count, np.float32)) for x in buffers]

    def call(name: str, turn: int) -> float:
        x, out = (born if name in ("empty", "view") else plain)[turn % BUFFERS]
        x.fill(1)
        MPI.COMM_WORLD.Barrier()
        MPI.COMM_WORLD.Barrier()  # from which all come at once
        started = time.perf_counter()
        if name == "copy":
            np.copyto(out, x)
        elif name == "view":
            comm.allreduce(x, view=True)
        elif name == "empty":
            comm.allreduce(x, out=out)
        elif name == "mpi":
            MPI.COMM_WORLD.Allreduce(x, out)
        elif name == "mpi here":
            MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x)
        elif name == "auto here":
            comm.allreduce(x, out=x)
        else:
            comm.allreduce(x, out=out, algorithm=name)
        return time.perf_counter() - started

    trial = max(call(name, turn) for turn in range(3) for name in names)
    repetitions = int(comm.allreduce([min(200.0, max(7.0, seconds / trial))], op=min)[0])
    times = np.empty((len(names), repetitions))
    for turn in range(repetitions):
        order = range(len(names)) if turn % 2 else reversed(range(len(names)))
        for index in order:
            times[index, turn] = call(names[index], turn)
    return list(comm.allreduce(times, op=max))


def line(nbytes: int, times: list[NDArray[np.float64]]) -> str:
    """One size."""
    medians = [float(np.median(row)) for row in times]
    cells = [
        f"{1e6 * median:.0f} ({np.quantile(row, 0.75) / np.quantile(row, 0.25):.1f})"
        for median, row in zip(medians, times, strict=True)
    ]
    return f"| {nbytes} | {' | '.join(cells)} | {medians[-1] / medians[-2]:.2f} |"


if __name__ == "__main__":
    main()
