"""Shard ONNX files and compare with onnxruntime: python scripts/check_models.py FILE [FILE ...]

Each model is sharded over 2, 3 and 4 ranks of tp, or to each --mesh. The ranks are threads of this
process and run at two settings of the open dims; feeds are random. Exit code 1 if any answer
differs. A line per model and mesh:

    difference   largest difference to onnxruntime, as a part of the largest value
    seconds      to analyse, to choose, and to write the graphs of all ranks
    bytes        weight bytes of the heaviest rank, over an even share of tp and pp
    reduces      AllReduces per layer, if --layers is given, else in all
    gathers      AllGathers in all
    sends        messages from stage to stage
    stages       predicted seconds of the longest stage, over the mean

and below it what is to be known, and the operators that every rank of tp computes whole although
something in them is sharded, or could be, with the reason. With --steps N, how many of N greedy
tokens are not onnxruntime's where a cache stays on its ranks. scripts/make_models.py writes models
for this; those of int4 leave the width of a head open: --dim kv_cache_dim 16, say.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ranks

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import MeshError, NothingToShard
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.shapes import dims
from rankwise.models.sharding.analysis import Analysis, analyse
from rankwise.models.sharding.layout import is_opaque
from rankwise.models.sharding.prediction import predict
from rankwise.models.sharding.write import Sharding, plan_analysed

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = dict[str, Array]

SIZES = (2, 3, 4)
SETTINGS = (
    {
        "batch": 2,
        "batch_size": 1,
        "sequence": 7,
        "past": 5,
        "total": 12,
        "height": 64,
        "width": 96,
    },
    {"batch": 3, "sequence": 1, "past": 8, "total": 9, "height": 96, "width": 64},
)
"""Sizes by the name of an open dim, or its first word: a prompt, and a step of one token.
onnxruntime's GroupQueryAttention continues a prompt for a single text only."""

TOLERANCE = 1e-4
"""Allowed difference, as a part of an output's largest value."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--layers", type=int, help="of each model")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of ranks")
    parser.add_argument(
        "--mesh", action="append", type=Mesh.parse, help="such as tp=2,pp=2, in place of --sizes"
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="tokens to decode, if there is a cache"
    )
    parser.add_argument("--no-run", action="store_true", help="shard, and compare nothing")
    parser.add_argument(
        "--dim", nargs=2, action="append", default=[], metavar=("NAME", "SIZE"), help="an open dim"
    )
    given = parser.parse_args()
    for name, size in given.dim:
        for sizes in SETTINGS:
            sizes[name] = int(size)
    heads = "difference  seconds             bytes  reduces  gathers  sends  stages"
    print(f"{'model':24} {'mesh':14}  {heads}")
    wrong = 0
    for path in given.files:
        start = time.perf_counter()
        analysis = analyse(load(path))
        seconds = time.perf_counter() - start
        for mesh in given.mesh or [Mesh(tp=size) for size in given.sizes]:
            wrong += not check(path, analysis, mesh, seconds, given)
    return 1 if wrong else 0


def check(
    path: Path, analysis: Analysis, mesh: Mesh, seconds: float, given: argparse.Namespace
) -> bool:
    """Print the line of a model on a mesh; say whether it is right."""
    label = f"{path.stem:24} {mesh!s:14}"
    try:
        sharding, *times = timed(analysis, mesh)
    except (NothingToShard, MeshError) as error:
        print(f"{label}  {error}")
        return True
    difference = None if given.no_run else compare(path, sharding)
    heaviest = max(part.weight_bytes for part in sharding.parts)
    share = heaviest * mesh.tp * mesh.pp / analysis.graph.weight_bytes
    counts = Counter(sharding.collectives)
    reduces = (counts["AllReduce"] + counts["ReduceScatter"]) / (given.layers or 1)
    shown = "-" if difference is None else f"{difference:.1e}"
    took = " ".join(f"{n:6.2f}" for n in (seconds, *times))
    stages = predict(sharding).stages
    print(
        f"{label}  {shown:>10}  {took}  {share:5.2f}  {reduces:7.3g}  {counts['AllGather']:7}  "
        f"{counts['Send']:5}  {max(stages) * mesh.pp / sum(stages):6.3f}",
        flush=True,
    )
    for note in sharding.notes:
        print(f"{'':28} {note}")
    for text, count in whole(sharding).most_common() if mesh.tp > 1 else ():
        print(f"{'':28} {count:4} {text}")
    differing = 0
    if given.steps and any(part.states for part in sharding.parts):
        differing = decode(path, sharding, given.steps)
        print(f"{'':28} {differing:4} of {given.steps} tokens differ")
    return (difference is None or difference <= TOLERANCE) and not differing


def timed(analysis: Analysis, mesh: Mesh) -> tuple[Sharding, float, float]:
    """Return a sharding, and the seconds to choose it and to write its graphs."""
    start = time.perf_counter()
    sharding = plan_analysed(analysis, mesh)
    chosen = time.perf_counter()
    assert sharding.parts
    return sharding, chosen - start, time.perf_counter() - chosen


def whole(sharding: Sharding) -> Counter[str]:
    """Count the nodes that every rank computes whole, by operator and reason."""
    found = Counter[str]()
    for site in sharding.analysis.sites:
        if site.obstacle is not None:
            found[f"{site.node.op_type}: {site.obstacle}"] += 1
        elif is_opaque(site, sharding.choice.layout):
            found[f"{site.node.op_type}: it needs whole what is sharded"] += 1
    return found


def compare(path: Path, sharding: Sharding) -> float:
    """Return the largest difference to onnxruntime; infinity where shapes differ, or at a NaN."""
    fed = [feeds(sharding.analysis, sizes) for sizes in SETTINGS]
    whole = onnxruntime.InferenceSession(path, ranks.quiet())
    expected = [whole.run(None, given) for given in fed]
    with tempfile.TemporaryDirectory() as folder:
        got = ranks.run_each(sharding, fed, Path(folder))
    return max(
        difference(a, b)
        for answers in got
        for given, wanted in zip(answers, expected, strict=True)
        for a, b in zip(given, wanted, strict=True)
    )


def decode(path: Path, sharding: Sharding, steps: int) -> int:
    """Return how many greedy tokens differ where the cache stays on its ranks."""
    analysis = sharding.analysis
    whole = onnxruntime.InferenceSession(path, ranks.quiet())
    expected = greedy(whole.run, analysis, steps)

    def work(comm: Communicator) -> list[int]:
        with InferenceSession(
            folder / f"rank{comm.rank}.onnx", ranks.quiet(), comm=comm
        ) as session:
            return greedy(session.run_local, analysis, steps)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks.write(sharding, folder)
        got = local.run(sharding.mesh.size, work, timeout=60.0)
    return max(sum(a != b for a, b in zip(made, expected, strict=True)) for made in got)


def greedy(run: Callable[..., list[Array]], analysis: Analysis, steps: int) -> list[int]:
    """Decode from a prompt of seven tokens: each time the likeliest."""
    names = [value.name for value in analysis.graph.outputs]
    fed = feeds(analysis, {**SETTINGS[0], "batch": 1, "past": 0, "total": 7})
    tokens = list[int]()
    while len(tokens) < steps:
        made = dict(zip(names, run(None, fed), strict=True))
        tokens.append(int(made["logits"][0, -1].argmax()))
        fed |= {analysis.states[name]: made[name] for name in analysis.states}
        fed["input_ids"] = np.array([[tokens[-1]]])
        fed["attention_mask"] = np.ones((1, fed["attention_mask"].shape[1] + 1), np.int64)
    return tokens


def difference(got: Array, wanted: Array) -> float:
    """Compare an output. Raises ValueError where the whole model's answer proves nothing."""
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        return float("inf")
    largest = float(np.abs(wanted).max(initial=0))
    if not 1e-3 < largest < 1e6:
        raise ValueError(f"the whole model answers numbers up to {largest}: they prove nothing")
    found = float(np.abs(got - wanted).max(initial=0)) / largest
    return found if np.isfinite(found) else float("inf")


def feeds(analysis: Analysis, sizes: dict[str, int]) -> Feeds:
    """Draw feeds: tokens of the whole vocabulary, masks of ones, random numbers."""
    rng = np.random.default_rng(5)
    made: Feeds = {}
    for value in analysis.graph.inputs:
        shape = [n if isinstance(n, int) else _size(n, sizes) for n in dims(value)]
        if value.type.tensor_type.elem_type == 1:
            made[value.name] = rng.standard_normal(shape).astype(np.float32)
        elif "mask" in value.name:
            made[value.name] = np.ones(shape, np.int64)
        elif "position" in value.name:
            made[value.name] = np.broadcast_to(np.arange(shape[-1]), shape) + sizes["past"]
        else:
            made[value.name] = rng.integers(0, _vocabulary(analysis, value.name), shape)
    return made


def _size(name: str, sizes: dict[str, int]) -> int:
    word = name.split("_")[0]
    if name not in sizes and word not in sizes:
        raise SystemExit(f"expected a size for the open dim {name!r}: --dim {name} 16, perhaps")
    return sizes[name] if name in sizes else sizes[word]


def _vocabulary(analysis: Analysis, name: str) -> int:
    """Return the rows of the table in which an input is looked up, reshaped perhaps."""
    for site in analysis.readers[name]:
        table = site.inputs[0]
        if site.node.op_type.startswith("Gather") and table and table.name != name:
            return table.shape[0].first
        if site.node.op_type in ("Reshape", "Cast", "Flatten"):
            return _vocabulary(analysis, site.node.output[0])
    raise ValueError(f"no table is read at {name}: it is no input of tokens")


if __name__ == "__main__":
    sys.exit(main())
