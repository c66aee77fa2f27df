"""Time a decoder over ranks: mpirun -n 2 python scripts/bench_decoder.py MODEL.onnx

The decoder: one that scripts/make_models.py writes, such as

    python scripts/make_models.py llama_cache -o DIR --hidden 768 --layers 12 --heads 12 \\
        --kv-heads 4 --vocabulary 32000

Each rank has one thread. Beside it one onnxruntime process with one thread and with two, in the
same run and in turn (side_by_side.py): for one token after --past others, and for a prompt of 128.
Ranks keep their parts of the caches from token to token (run_local).
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

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
            compare(Kept(session), given.model, cases, "tokens", given.seconds)
        world.barrier()


class Kept:
    """A session whose states stay on their ranks."""

    def __init__(self, session: rankwise.InferenceSession) -> None:
        self.session = session
        self.parts: dict[int, Feeds] = {}
        """what a rank is fed, by what the whole model is"""

    def run(self, output_names: None, input_feed: Feeds) -> list[Any]:
        found = self.parts.get(id(input_feed))
        if found is None:
            found = self.parts[id(input_feed)] = self.part(input_feed)
        return self.session.run_local(output_names, found)

    def part(self, feeds: Feeds) -> Feeds:
        """This rank's part of the caches, as an earlier run has left it."""
        made = self.session.run_local(None, feeds)
        outputs = [value.name for value in self.session.get_outputs()]
        kept = dict(zip(outputs, made, strict=True))
        past = {
            name: np.ascontiguousarray(kept[present][:, :, : array.shape[2]])
            for name, array in feeds.items()
            if (present := re.sub("^past(_key_values)?", "present", name)) in kept
        }
        return {**feeds, **past}


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
