"""The verb run: a model on all ranks, from files to files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..collectives import Communicator
from ..models.sharding.hints import Hint
from . import arrays, perfetto, report
from .agreement import gathered, together
from .compare import Comparison, compare, find_source, run_whole
from .loading import Functions
from .session import InferenceSession
from .signature import check_feeds, random_feeds
from .threads import with_threads
from .timeline import Timeline, table, timeline


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for. `{rank}` in a path stands for the number of the rank."""

    model: str
    ranks: int | None = None
    mesh: str | None = None
    inputs: str | None = None
    outputs: str | None = None
    compare: bool = False
    source: str | None = None
    rtol: float = 1e-3
    atol: float = 1e-4
    report: str | None = None
    seed: int = 0
    threads: int | None = None
    repeat: int = 1
    memory: int | tuple[int, ...] | None = None
    batch_dim: str | None = None
    functions: Functions = "native"
    trace: str | None = None
    hints: tuple[Hint, ...] = ()


def run(options: RunOptions, comm: Communicator) -> int:
    """Run a model on the ranks of `comm`; return the exit code. Collective."""
    source = together(comm, lambda: _prepare(options, comm))
    # What it logs as an error comes as an exception too, which is said once, by one rank.
    onnxruntime.set_default_logger_severity(4)
    threads = None
    if options.threads is not None:
        threads = with_threads(onnxruntime.SessionOptions(), options.threads)
    model = _of_rank(options.model, comm)
    with InferenceSession(
        model, threads, comm=comm, mesh=options.mesh, functions=options.functions,
        hints=options.hints, memory=options.memory, batch_dim=options.batch_dim,
    ) as session:  # fmt: skip
        feeds = together(comm, lambda: _feeds(options, session, comm))
        session.is_traced = options.trace is not None
        for _ in range(options.repeat):
            start = time.perf_counter()
            made = session.run(None, feeds)
            seconds = time.perf_counter() - start
        names = [value.name for value in session.get_outputs()]
        results = dict(zip(names, made, strict=True))
        # Before the comparison, which holds the whole model.
        ranks = gathered(comm, report.of_rank(session, comm.rank))
        operators, axes, notes = report.operators(session), str(session.mesh), session.notes
        line = None if session.trace.spans is None else timeline(comm, session.trace.spans)
    together(comm, lambda: _write_outputs(options, results, comm))
    comparison = together(comm, lambda: _compare(options, source, results, feeds))
    if comm.rank == 0:
        _print(options, results, ranks, line, comparison, notes)

    def write() -> None:
        if comm.rank == 0:
            _write_report(options, ranks, operators, axes, seconds, comparison)
        if line is not None and options.trace is not None:
            perfetto.write(options.trace, line)

    together(comm, write)
    verdict = comm.broadcast(np.array([comparison is None or comparison.equal]))
    return 0 if verdict[0] else 1


def _prepare(options: RunOptions, comm: Communicator) -> str | None:
    """Check what can be checked at once; return the model to compare with, on rank 0."""
    if options.ranks is not None and options.ranks != comm.size:
        raise ValueError(f"mpirun has started {comm.size} ranks, but -n is {options.ranks}")
    for name, value in (("--repeat", options.repeat), ("--threads", options.threads)):
        if value is not None and value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}")
    _check_numbers(options)
    written = [options.outputs, options.report, options.trace, options.inputs]
    given = [os.path.realpath(path) for path in written if path is not None]
    if len(set(given)) < len(given):
        raise ValueError("expected different files for --inputs, --outputs, --report and --trace")
    paths = {"--outputs": options.outputs, "--report": options.report, "--trace": options.trace}
    for name, path in paths.items():
        if path is not None and _writes(path, comm):
            _check_writable(name, Path(_of_rank(path, comm)))
    if comm.rank != 0 or not options.compare:
        return None
    return find_source(options.model, options.source)


def _check_numbers(options: RunOptions) -> None:
    cores = os.cpu_count() or 1
    if options.threads is not None and options.threads > cores:
        raise ValueError(
            f"expected --threads of at most {cores}, the cores, got {options.threads}"
        )
    if options.seed < 0:
        raise ValueError(f"expected --seed of at least 0, got {options.seed}")
    for name, value in (("--rtol", options.rtol), ("--atol", options.atol)):
        if not 0 <= value < np.inf:
            raise ValueError(f"expected {name} of at least 0, got {value}")


def _check_writable(option: str, path: Path) -> None:
    parent = path.absolute().parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{option} {path} cannot be written; name a file in a directory that can")


def _of_rank(path: str, comm: Communicator) -> str:
    return path.replace("{rank}", str(comm.rank))


def _writes(path: str, comm: Communicator) -> bool:
    return comm.rank == 0 or "{rank}" in path


def _feeds(
    options: RunOptions, session: InferenceSession, comm: Communicator
) -> Mapping[str, Any]:
    inputs = session.get_inputs()
    if options.inputs is None:
        return random_feeds(inputs, options.seed)
    path = _of_rank(options.inputs, comm)
    try:
        return check_feeds(arrays.load(path), inputs)
    except arrays.ArrayFileError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _write_outputs(options: RunOptions, results: Mapping[str, Any], comm: Communicator) -> None:
    if options.outputs is not None and _writes(options.outputs, comm):
        if lists := [name for name, x in results.items() if not isinstance(x, np.ndarray)]:
            raise ValueError(f"outputs {lists} are no tensors, which an npz cannot hold")
        arrays.save(_of_rank(options.outputs, comm), results)


def _compare(
    options: RunOptions,
    source: str | None,
    results: Mapping[str, Any],
    feeds: Mapping[str, Any],
) -> Comparison | None:
    if source is None:
        return None
    expected = run_whole(source, list(results), feeds)
    return compare(results, expected, options.rtol, options.atol)


def _print(
    options: RunOptions,
    results: Mapping[str, Any],
    ranks: list[dict[str, Any]],
    line: Timeline | None,
    comparison: Comparison | None,
    notes: Sequence[str],
) -> None:
    for name, value in results.items():
        shape = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else ""
        print(f"output  {name}  {shape}".rstrip())
    print()
    print(report.table(ranks))
    for note in notes:
        print(f"note  {note}")
    if line is not None:
        print()
        print(table(line))
    if comparison is not None:
        print()
        for name, diff in comparison.outputs.items():
            text = "another type or shape" if diff is None else f"max abs diff {diff:.3g}"
            print(f"compare  {name}  {text}")
        verdict = "equal" if comparison.equal else "NOT equal"
        print(f"compare  {verdict} (rtol {options.rtol:g}, atol {options.atol:g})")
    sys.stdout.flush()


def _write_report(
    options: RunOptions,
    ranks: list[dict[str, Any]],
    operators: Mapping[str, Any],
    mesh: str,
    seconds: float,
    comparison: Comparison | None,
) -> None:
    if options.report is None:
        return
    content: dict[str, Any] = {
        "command": ["rankwise", *sys.argv[1:]],
        "world_size": len(ranks),
        "mesh": mesh,
        "ranks": ranks,
        "operators": operators,
        "run_seconds": seconds,
    }
    if comparison is not None:
        content["compare"] = comparison.as_json()
    report.write(options.report, content)
