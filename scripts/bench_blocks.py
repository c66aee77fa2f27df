"""Time a stack of MLP blocks over two ranks: mpirun -n 2 python scripts/bench_blocks.py

The model: 12 times x + MatMul(Gelu(MatMul(LayerNormalization(x)))), 400 MB of float32 weights.
Each rank has one thread. Beside it one onnxruntime process with one thread and with two, in the
same run and in turn, while the other rank sleeps. Prints a markdown table: medians in ms, and in
brackets the ratio of the upper to the lower quartile. --memory runs only the ranks, and prints the
peak of the heaviest process in MB beside its weights.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import resource
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from mpi4py import MPI

import rankwise
from rankwise.models.builder import Builder
from rankwise.models.sharding import shard

WIDTH, BLOCKS = 1024, 12
ROWS = (1, 8, 128)
IN_A_ROW = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of rows")
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    world = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory(prefix="rankwise-blocks-") as own:
        folder = Path(world.bcast(own))
        path, cut = folder / "blocks.onnx", folder / "cut"
        if world.rank == 0:
            writer = multiprocessing.get_context("fork").Process(target=write, args=(path,))
            writer.start()  # its memory is not ours
            writer.join()
            shard(path, cut, f"tp={world.size}")
        world.barrier()
        with rankwise.InferenceSession(cut, options(1)) as session:
            if given.memory:
                memory(session)
            else:
                speed(session, path, given.seconds)
        world.barrier()


def write(path: Path) -> None:
    """Write the model."""
    rng = np.random.default_rng(0)
    g = Builder("blocks")
    value = g.input("x", np.float32, ["rows", WIDTH])
    for k in range(BLOCKS):
        with g.scope(f"block.{k}"):
            scale, shift = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
            inner = g.op(
                "LayerNormalization", value, g.weight("scale", scale), g.weight("shift", shift)
            )
            for name, shape in (("up", (WIDTH, 4 * WIDTH)), ("down", (4 * WIDTH, WIDTH))):
                weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
                inner = g.op("MatMul", inner, g.weight(name, weight))
                inner = g.op("Gelu", inner) if name == "up" else inner
            value = g.op("Add", value, inner, out="y" if k == BLOCKS - 1 else None)
    g.output("y", np.float32, ["rows", WIDTH])
    onnx.save_model(g.model(), path, save_as_external_data=True, location="weights")


def options(threads: int) -> onnxruntime.SessionOptions:
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads = threads
    return found


def memory(session: rankwise.InferenceSession) -> None:
    """Print what the heaviest process took, once all numbers of rows have run."""
    for rows in ROWS:
        session.run(None, {"x": np.ones((rows, WIDTH), np.float32)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peaks = MPI.COMM_WORLD.gather((peak, session.weight_bytes / 1e6))
    if peaks is not None:
        print(f"peak {max(peaks)[0]:.0f} MB, weights {max(peaks)[1]:.0f} MB of a rank")


def speed(session: rankwise.InferenceSession, path: Path, seconds: float) -> None:
    """Print the table."""
    world = MPI.COMM_WORLD
    whole = [onnxruntime.InferenceSession(path, options(n)) for n in (1, 2) if world.rank == 0]
    if world.rank == 0:
        version = MPI.Get_library_version().partition(",")[0].partition("\n")[0]
        print(f"\n{version}, onnxruntime {onnxruntime.__version__}, {datetime.date.today()}\n")
        print(f"    mpirun -n {world.size} python {shlex.join(sys.argv)}\n")
        print("| rows | ranks | one thread | two threads | of the ideal | to two threads |")
        print("|---" * 6 + "|")
    for rows in ROWS:
        x = np.random.default_rng(1).standard_normal((rows, WIDTH), np.float32)
        calls = [session, *whole] if world.rank == 0 else [session, None, None]
        times = [[timed(one, x) for one in calls] for _ in range(turns(calls, x, seconds))]
        if world.rank == 0:
            quartiles = np.quantile(np.array(times) * 1e3, [0.25, 0.5, 0.75], axis=0)
            ours, one, two = quartiles[1]
            cells = [f"{b:.2f} ({c / a:.2f})" for a, b, c in quartiles.T]
            ideal = f"{one / ours / world.size:.1%}"
            print(f"| {rows} | {' | '.join(cells)} | {ideal} | {two / ours:.2f} |", flush=True)


def turns(calls: list[Any], x: np.ndarray[Any, Any], seconds: float) -> int:
    """How often to time each in so many seconds."""
    trial = sum(timed(one, x) for _ in range(2) for one in calls) / 2 * IN_A_ROW
    return int(MPI.COMM_WORLD.bcast(min(300, max(7, seconds / trial))))


def timed(session: Any, x: np.ndarray[Any, Any]) -> float:
    """The seconds of one run, for which all ranks wait; the first of a few that follow is not one.

    By then the system has moved what runs to different cores.
    """
    rest()
    seconds = []
    for _ in range(IN_A_ROW if session is not None else 0):
        start = time.perf_counter()
        session.run(None, {"x": x})
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:] or [0.0]))


def rest() -> None:
    """Wait for all ranks without taking a core."""
    request = MPI.COMM_WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
