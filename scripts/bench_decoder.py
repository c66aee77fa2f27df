"""Time a decoder over ranks: mpirun -n 2 python scripts/bench_decoder.py MODEL.onnx

The decoder: one that scripts/make_models.py writes, such as

    python scripts/make_models.py llama_cache -o DIR --hidden 768 --layers 12 --heads 12 \\
        --kv-heads 4 --vocabulary 32000

Each rank has one thread. Beside it one onnxruntime process with one thread and with two, in the
same run and in turn (side_by_side.py): for one token after --past others, and for a prompt of 128.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from mpi4py import MPI
from side_by_side import Feeds, compare, options

import rankwise
from rankwise.models.sharding import shard

TOKENS = (1, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--past", type=int, default=128, help="tokens before a single one")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of tokens")
    given = parser.parse_args()
    world = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory(prefix="rankwise-decoder-") as own:
        cut = Path(world.bcast(own)) / "cut"
        if world.rank == 0:
            shard(given.model, cut, f"tp={world.size}")
        world.barrier()
        cases = {str(n): feeds(given.model, n, given.past if n == 1 else 0) for n in TOKENS}
        with rankwise.InferenceSession(cut, options(1)) as session:
            compare(session, given.model, cases, "tokens", given.seconds)
        world.barrier()


def feeds(model: Path, tokens: int, past: int) -> Feeds:
    """One sequence of so many tokens after so many others, for whatever inputs the model has."""
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(model, options(1))
    found = {}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            heads, width = value.shape[1], value.shape[3]
            found[value.name] = rng.standard_normal((1, heads, past, width), np.float32)
        elif value.name == "attention_mask":
            found[value.name] = np.ones((1, past + tokens), np.int64)
        elif value.name == "position_ids":
            found[value.name] = np.arange(past, past + tokens)[None]
        else:
            found[value.name] = rng.integers(1, 100, (1, tokens))
    return found


if __name__ == "__main__":
    main()
