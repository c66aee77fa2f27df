"""Time a sharded session beside onnxruntime with one thread and with two, in turn."""

from __future__ import annotations

import datetime
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from mpi4py import MPI

IN_A_ROW = 6
Feeds = Mapping[str, np.ndarray[Any, Any]]


def options(threads: int) -> onnxruntime.SessionOptions:
    """So many threads for a session."""
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads = threads
    return found


class Runs(Protocol):
    """What can be timed."""

    def run(self, output_names: None, input_feed: Feeds) -> list[Any]:
        """Run once."""


def compare(
    session: Runs,
    path: Path,
    cases: Mapping[str, Feeds],
    what: str,
    seconds: float,
) -> None:
    """Print a markdown table with a row for each case.

    Medians in ms, and in brackets the ratio of the upper to the lower quartile. The ranks have one
    thread each, and all but rank 0 sleep while it runs onnxruntime alone. `what` heads the names
    of the cases.
    """
    world = MPI.COMM_WORLD
    whole = [onnxruntime.InferenceSession(path, options(n)) for n in (1, 2) if world.rank == 0]
    if world.rank == 0:
        version = MPI.Get_library_version().partition(",")[0].partition("\n")[0]
        print(f"\n{version}, onnxruntime {onnxruntime.__version__}, {datetime.date.today()}\n")
        print(f"    mpirun -n {world.size} python {shlex.join(sys.argv)}\n")
        print(f"| {what} | ranks | one thread | two threads | of the ideal | to two threads |")
        print("|---" * 6 + "|")
    for name, feeds in cases.items():
        calls = [session, *whole] if world.rank == 0 else [session, None, None]
        rounds = turns(calls, feeds, seconds)
        times = [[timed(one, feeds) for one in calls] for _ in range(rounds)]
        if world.rank == 0:
            quartiles = np.quantile(np.array(times) * 1e3, [0.25, 0.5, 0.75], axis=0)
            ours, one, two = quartiles[1]
            cells = [f"{b:.2f} ({c / a:.2f})" for a, b, c in quartiles.T]
            ideal = f"{one / ours / world.size:.1%}"
            print(f"| {name} | {' | '.join(cells)} | {ideal} | {two / ours:.2f} |", flush=True)


def turns(calls: list[Any], feeds: Feeds, seconds: float) -> int:
    """How often to time each in so many seconds."""
    trial = sum(timed(one, feeds) for _ in range(2) for one in calls) / 2 * IN_A_ROW
    return int(MPI.COMM_WORLD.bcast(min(300, max(7, seconds / trial))))


def timed(session: Any, feeds: Feeds) -> float:
    """The seconds of one run, for which all ranks wait; the first of a few that follow is not one.

    By then the system has moved what runs to different cores.
    """
    rest()
    seconds = []
    for _ in range(IN_A_ROW if session is not None else 0):
        start = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:] or [0.0]))


def rest() -> None:
    """Wait for all ranks without taking a core."""
    request = MPI.COMM_WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.0005)
