"""Shard a decoder that is larger than it should have to fit: python scripts/bench_sharding.py DIR

Makes a decoder of --gigabytes with external data in DIR, in seconds: its matrices are one drawn
block over and over. Then, with a table of it in markdown:

- shards it to --mesh in a process of its own, in turn with a copy of its data file: peak memory,
  and the speed as a ratio of the two;
- kills a sharding with signal 9 in its midst, and looks at what is left;
- loads what was sharded on its ranks: bytes of weights, and peak memory.

DIR is made, takes three times the size of the model, and is removed at the end unless --keep.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from rankwise.models.builder import Builder
from rankwise.models.mesh import Mesh
from rankwise.runtime.launch import command

HIDDEN, INNER, HEADS, VOCABULARY = 4096, 11008, 32, 32000
BLOCK_BYTES = 1 << 26
DATA = "model.data"
LIMIT_S = 600

LOAD = """
import json, resource, rankwise
from mpi4py import MPI
with rankwise.InferenceSession({directory!r}) as session:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = MPI.COMM_WORLD.gather((session.weight_bytes, peak, session.load_seconds))
    if found:
        print(json.dumps(found))
"""


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    peak: int
    """bytes of memory at the most, pages of mapped files among them"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--mesh", default="tp=4")
    parser.add_argument("--times", type=int, default=3, help="of each, in turn")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    given = parser.parse_args()
    given.directory.mkdir(parents=True)
    model, cut = given.directory / "model.onnx", given.directory / "cut"
    try:
        start = time.perf_counter()
        total = make(model, round(given.gigabytes * 1e9))
        print(f"made {total / 1e9:.2f} GB in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        copies, shardings = in_turn(model, cut, given.mesh, given.times)
        print(f"\n    python {' '.join(sys.argv)}\n\n{datetime.date.today()}\n")
        report(total, copies, shardings)
        print(killed(model, given.directory / "killed", given.mesh))
        loaded(cut, given.mesh, total)
    finally:
        if not given.keep:
            shutil.rmtree(given.directory)


def make(path: Path, nbytes: int) -> int:
    """Write a decoder of about so many bytes; return the bytes of its weights."""
    g = Builder("decoder")
    sizes: dict[str, tuple[int, ...]] = {}

    def weight(*shape: int) -> str:
        name = g.scoped("weight")
        sizes[name] = shape
        return name

    layer_bytes = 4 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)
    layers = max(1, round((nbytes - 8 * VOCABULARY * HIDDEN) / layer_bytes))
    ids = g.input("input_ids", np.int64, ["batch", "sequence"])
    with g.scope("embed"):
        x = g.op("Gather", weight(VOCABULARY, HIDDEN), ids)
    for k in range(layers):
        with g.scope(f"layers.{k}"):
            x = decoder_layer(g, x, weight)
    with g.scope("head"):
        g.op("MatMul", norm(g, x), weight(HIDDEN, VOCABULARY), out="logits")
    g.output("logits", np.float32, ["batch", "sequence", VOCABULARY])
    model, offset = g.model(), 0
    for name, shape in sizes.items():
        tensor = model.graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        length = 4 * int(np.prod(shape))
        for key, value in {"location": DATA, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        offset += length
    fill(path.with_name(DATA), offset)
    path.write_bytes(model.SerializeToString())
    return offset


def decoder_layer(g: Builder, x: str, weight: Callable[..., str]) -> str:
    """Add attention and a gated product, each behind a norm and beside what goes past it."""
    shape = g.constant([0, 0, HEADS, HIDDEN // HEADS])
    heads = dict[str, str]()
    with g.scope("attention"):
        normed = norm(g, x)
        for name, perm in {"q": (0, 2, 1, 3), "k": (0, 2, 3, 1), "v": (0, 2, 1, 3)}.items():
            with g.scope(name):
                flat = g.op("MatMul", normed, weight(HIDDEN, HIDDEN))
                heads[name] = g.op("Transpose", g.op("Reshape", flat, shape), perm=perm)
        scores = g.op("Softmax", g.op("MatMul", heads["q"], heads["k"]), axis=-1)
        mixed = g.op("Transpose", g.op("MatMul", scores, heads["v"]), perm=(0, 2, 1, 3))
        flat = g.op("Reshape", mixed, g.constant([0, 0, HIDDEN]))
        with g.scope("o"):
            x = g.op("Add", x, g.op("MatMul", flat, weight(HIDDEN, HIDDEN)))
    with g.scope("mlp"):
        normed = norm(g, x)
        with g.scope("gate"):
            gate = g.op("MatMul", normed, weight(HIDDEN, INNER))
        with g.scope("up"):
            up = g.op("MatMul", normed, weight(HIDDEN, INNER))
        gated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        with g.scope("down"):
            return g.op("Add", x, g.op("MatMul", gated, weight(INNER, HIDDEN)))


def norm(g: Builder, x: str) -> str:
    return g.op("LayerNormalization", x, g.weight("norm", np.ones(HIDDEN, np.float32)))


def fill(path: Path, nbytes: int) -> None:
    """Write a drawn block over and over."""
    drawn = np.random.default_rng(0).standard_normal(BLOCK_BYTES // 4, np.float32)
    block = (drawn / np.float32(np.sqrt(HIDDEN))).tobytes()
    with path.open("wb") as file:
        for start in range(0, nbytes, BLOCK_BYTES):
            file.write(block[: min(BLOCK_BYTES, nbytes - start)])


def in_turn(model: Path, cut: Path, mesh: str, times: int) -> tuple[list[Cost], list[Cost]]:
    """Copy the weights and shard them, in turn, the order swapped every other time."""
    data, copied = model.with_name(DATA), model.with_name("copy")
    copies, shardings = list[Cost](), list[Cost]()

    def copy() -> None:
        copies.append(cost([sys.executable, "-c", COPY, str(data), str(copied)]))
        copied.unlink()

    def shard() -> None:
        shutil.rmtree(cut, ignore_errors=True)
        shardings.append(cost(sharding(model, cut, mesh)))

    for k in range(times):
        for work in (copy, shard) if k % 2 == 0 else (shard, copy):
            os.sync()  # what the one before has left to write is not this one's time
            work()
    return copies, shardings


COPY = """
import shutil, sys
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 24)
"""


def sharding(model: Path, cut: Path, mesh: str) -> list[str]:
    return [sys.executable, "-m", "rankwise", "shard", str(model), "-o", str(cut), "--mesh", mesh]


def cost(argv: list[str]) -> Cost:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * 1024)


def report(total: int, copies: list[Cost], shardings: list[Cost]) -> None:
    largest = 4 * VOCABULARY * HIDDEN
    peak = max(each.peak for each in shardings)
    ratios = [c.seconds / s.seconds for c, s in zip(copies, shardings, strict=True)]
    print(f"Weights {total / 1e9:.2f} GB, the largest tensor {largest / 1e9:.2f} GB.\n")
    print("| | seconds, each time | peak memory, GB |\n|---|---|---|")
    for name, costs in {"copy": copies, "shard": shardings}.items():
        times = ", ".join(f"{each.seconds:.1f}" for each in costs)
        print(f"| {name} | {times} | {max(each.peak for each in costs) / 1e9:.2f} |")
    print(
        f"\nSpeed of sharding, copying being 1: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}). Peak memory above the largest tensor: "
        f"{(peak - largest) / 1e9:.2f} GB.\n"
    )


def killed(model: Path, cut: Path, mesh: str) -> str:
    """Kill a sharding when it has written a part, and try to run what is left."""
    process = subprocess.Popen(sharding(model, cut, mesh), stdout=subprocess.DEVNULL)
    while sum(path.stat().st_size for path in cut.parent.glob(f".{cut.name}.*/*")) < BLOCK_BYTES:
        time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path for path in (cut, *cut.parent.glob(f".{cut.name}.*")) if path.exists()]
    said = list[str]()
    for path in left:
        done = subprocess.run(
            [sys.executable, "-m", "rankwise", "run", str(path)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        said.append(f"`rankwise run {path.name}` ended with {done.returncode}: {done.stderr}")
        shutil.rmtree(path)
    return f"Killed in its midst, {len(left)} directories are left. {' '.join(said)}"


def loaded(cut: Path, mesh: str, total: int) -> None:
    """Load what was sharded on its ranks, and print what each holds."""
    program = LOAD.format(directory=str(cut))
    start = command(Mesh.parse(mesh).size, [sys.executable, "-m", "mpi4py", "-c", program])
    environment = os.environ | start.env
    done = subprocess.run(
        start.argv, env=environment, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(start.argv)} ended with {done.returncode}")
    print("| rank | weights, GB | of all | peak memory, GB | seconds to load |")
    print("|---|---|---|---|---|")
    for rank, (nbytes, peak, seconds) in enumerate(json.loads(done.stdout)):
        print(
            f"| {rank} | {nbytes / 1e9:.2f} | {nbytes / total:.1%} | {peak / 1e9:.2f} "
            f"| {seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
