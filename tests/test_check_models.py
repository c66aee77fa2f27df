"""The script that compares exported models: what counts as a difference, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import ranks
import script

check_models = script.load("check_models")

ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (ONES, 0.0),
        (ONES * np.float32(1.5), 0.5),
        (np.where(np.arange(3) == 1, np.float32(np.nan), ONES), np.inf),
        (np.where(np.arange(3) == 1, np.float32(np.inf), ONES), np.inf),
        (ONES.astype(np.float64), np.inf),
        (ONES[:1], np.inf),
    ],
    ids=["same", "half as much again", "NaN", "infinity", "dtype", "shape"],
)
def test_a_difference_is_a_part_of_the_largest_value(got: Any, expected: float) -> None:
    assert check_models.difference(got, ONES) == expected


@pytest.mark.parametrize("wrong", (0.0, 1e-9, 1e7, np.nan))
def test_a_whole_model_whose_numbers_prove_nothing_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="prove nothing"):
        check_models.difference(ONES, ONES * np.float32(wrong))


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Check a small model on two ranks, and return the exit code and the line of it."""
    onnx.save(graphs.MLP.model, tmp_path / "mlp.onnx")

    def answer(*more: str) -> tuple[int, list[str]]:
        path = str(tmp_path / "mlp.onnx")
        asked = ["check_models", path, "--sizes", "2", "--dim", "b", "5", *more]
        monkeypatch.setattr(sys, "argv", asked)
        code = check_models.main()
        return code, capsys.readouterr().out.splitlines()[1].split()

    return answer


def test_what_was_not_run_has_no_difference(run: Any) -> None:
    code, (name, mesh, difference, *_) = run("--no-run")
    assert (code, name, mesh, difference) == (0, "mlp", "tp=2", "-")
    code, (_, _, difference, *_) = run()
    assert code == 0
    assert float(difference) < 1e-6


def test_ranks_that_answer_nothing_are_wrong(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranks.run_each

    def wrong(*given: Any) -> Any:
        first, *others = right(*given)
        return [first, *([[y * np.nan for y in made] for made in runs] for runs in others)]

    monkeypatch.setattr(ranks, "run_each", wrong)
    code, (_, _, difference, *_) = run()
    assert (code, difference) == (1, "inf")
