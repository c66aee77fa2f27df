"""Time a stack of MLP blocks over two ranks: mpirun -n 2 python scripts/bench_blocks.py

The model: 12 times x + MatMul(Gelu(MatMul(LayerNormalization(x)))), 400 MB of float32 weights.
Each rank has one thread. Beside it one onnxruntime process with one thread and with two, in the
same run and in turn (side_by_side.py), as a markdown table. --memory runs only the ranks, and
prints the peak of the heaviest process in MB beside its weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mpi4py import MPI
from side_by_side import compare, options

import rankwise
from rankwise.models.builder import Builder
from rankwise.models.sharding import shard

WIDTH, BLOCKS = 1024, 12
ROWS = (1, 8, 128)


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
                compare(session, path, cases(), "rows", given.seconds)
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


def cases() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Inputs by their number of rows."""
    rng = np.random.default_rng(1)
    return {str(rows): {"x": rng.standard_normal((rows, WIDTH), np.float32)} for rows in ROWS}


def memory(session: rankwise.InferenceSession) -> None:
    """Print what the heaviest process took, once all numbers of rows have run."""
    for rows in ROWS:
        session.run(None, {"x": np.ones((rows, WIDTH), np.float32)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peaks = MPI.COMM_WORLD.gather((peak, session.weight_bytes / 1e6))
    if peaks is not None:
        print(f"peak {max(peaks)[0]:.0f} MB, weights {max(peaks)[1]:.0f} MB of a rank")


if __name__ == "__main__":
    main()
