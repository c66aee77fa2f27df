"""The verb bench: every algorithm of a collective and MPI's own call, by size, in one run.

The columns are those of nccl-tests. Algorithms take turns, in the other direction every other
time; a barrier comes before each call; the time of a call is that of the slowest rank, and what is
printed is the median over the iterations. Memory rotates, so that none is warm from the call
before. Beside the table: files of the results, a picture, the user's selection table (--tune) and
the constants of the cost model (--fit).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...collectives import Communicator
from ...collectives.cluster import Cluster
from ...collectives.origin import Origin
from ...collectives.specs import SPECS
from ..agreement import together
from .fitting import fit
from .options import BenchOptions, parse_bytes
from .problem import Array, Memory, Problem
from .result import Result, Timing, bound, heading, line, write_csv, write_json
from .timing import Call, Progress, Seconds, alternated
from .tuning import Measured, target, tune

__all__ = ["BenchOptions", "bench", "parse_bytes"]

BUFFERS = 4
"""Memories that take turns."""
LARGE_BUFFERS = 2
"""The same for sizes that leave no cache warm anyway, and of which memory may not hold many."""
LARGE = 16 << 20


def bench(options: BenchOptions, comm: Communicator) -> int:
    """Measure, and print as results come; return 1 if any was wrong. Collective."""
    cluster = together(comm, lambda: _checked(options, comm))
    progress, origin = Progress(comm), Origin.here()
    if options.fit is not None:
        return fit(options, comm, progress, origin)
    progress.show(heading(options, comm.size, origin))
    results: list[Result] = []
    measured: Measured = []
    for nbytes in options.sizes:
        seconds, wrong = _measured(options, comm, nbytes, progress)
        of_size = _results(options, nbytes, seconds, wrong)
        if cluster is not None:
            of_size.append(bound(options, comm.size, nbytes, cluster))
        native = {result.algorithm: result.out_of_place.seconds for result in of_size}.get("mpi")
        for result in of_size:
            progress.show(line(options, comm.size, result, native))
        results += of_size
        out_of_place = {way.name: row for way, row in seconds.items() if not way.in_place}
        measured.append((nbytes, out_of_place))
    errors = sum(result.wrong for result in results)
    progress.show(f"# {errors} wrong values" if options.check else "# no value was looked at")
    together(comm, lambda: _written(options, comm, results, origin))
    if options.tune and not errors:
        tune(options, comm, measured, origin, progress)
    return int(errors > 0)


def _checked(options: BenchOptions, comm: Communicator) -> Cluster | None:
    """Find what is wrong before anything is measured; return the cluster file that was named."""
    options.check_for(comm.size)
    if comm.rank != 0:
        return None
    options.check_files()
    if options.tune:
        target()
    return None if options.cluster is None else Cluster.read(Path(options.cluster))


class Way(NamedTuple):
    """What has a column of its own."""

    name: str
    in_place: bool


def _measured(
    options: BenchOptions, comm: Communicator, nbytes: int, progress: Progress
) -> tuple[dict[Way, Seconds], dict[Way, int]]:
    """The seconds of each iteration on the slowest rank, and the wrong values on all ranks."""
    problem = Problem.of(options, comm, nbytes)
    places = (False, True) if problem.has_in_place else (False,)
    ways = [Way(name, in_place) for name in options.names for in_place in places]
    buffers = LARGE_BUFFERS if nbytes >= LARGE else BUFFERS
    memories = {
        in_place: [problem.memory(in_place=in_place) for _ in range(buffers)]
        for in_place in places
    }
    wrong = np.zeros(len(ways), np.int64)

    def call(index: int, way: Way) -> Call:
        memory = memories[way.in_place]

        def after(turn: int, made: Array | None) -> None:
            if options.check:
                wrong[index] += problem.wrong(made)
            problem.reset(memory[turn % buffers])

        return Call(lambda turn: _call(options, comm, memory[turn % buffers], way.name), after)

    calls = {way: call(index, way) for index, way in enumerate(ways)}
    seconds = alternated(comm, calls, options.iters, options.warmup, progress, f"{nbytes} bytes")
    return seconds, dict(zip(ways, comm.allreduce(wrong).tolist(), strict=True))


def _call(options: BenchOptions, comm: Communicator, memory: Memory, name: str) -> Any:
    keywords: dict[str, Any] = {"algorithm": name, "out": memory.out}
    if SPECS[options.collective].rooted:
        keywords["root"] = options.root
    if SPECS[options.collective].reduces:
        keywords["op"] = options.op
    return getattr(comm, options.collective)(memory.x, **keywords)


def _results(
    options: BenchOptions, nbytes: int, seconds: dict[Way, Seconds], wrong: dict[Way, int]
) -> list[Result]:
    """One result for each algorithm, in the order of their names in the options."""
    timings = {
        way: Timing.of(row, wrong[way] if options.check else None) for way, row in seconds.items()
    }
    count = nbytes // options.dtype.itemsize
    return [
        Result(nbytes, count, name, timings[Way(name, False)], timings.get(Way(name, True)))
        for name in options.names
    ]


def _written(
    options: BenchOptions, comm: Communicator, results: list[Result], origin: Origin
) -> None:
    """Write the files that were asked for, on rank 0."""
    if comm.rank != 0:
        return
    if options.csv is not None:
        write_csv(options.csv, options, comm.size, results)
    if options.json is not None:
        write_json(options.json, options, comm.size, results, origin)
    if options.plot is not None:
        from .plot import draw  # here, since it brings matplotlib

        draw(options.plot, options, comm.size, results, origin)
