"""What we write ourselves fits: parts of models with control flow, and functions of schedules."""

from pathlib import Path

import control_graphs
import onnx
import pytest
from programs import model

from rankwise.collectives.table import TABLE
from rankwise.models.sharding import shard
from rankwise.runtime.cli import main

SHARED = {"one_shot", "two_shot", "single_copy"}
"""Algorithms that read the memory of other ranks, which Send and Recv cannot say."""


@pytest.mark.parametrize("name", control_graphs.CASES)
def test_the_parts_of_a_model_with_bodies_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    onnx.save(control_graphs.CASES[name].model, tmp_path / "model.onnx")
    shard(tmp_path / "model.onnx", tmp_path / "parts", "tp=3")
    assert main(["check", str(tmp_path / "parts")]) == 0
    assert "of 3 ranks fit" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", sorted(TABLE["allreduce"].keys() - SHARED))
def test_a_schedule_as_a_function_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    ranks, ends = 3, "(float[6] x) => (float[6] y)"
    onnx.save(model("y = R.AllReduce(x)", ends), tmp_path / "model.onnx")
    lowered = str(tmp_path / "lowered")
    arguments = ["lower", str(tmp_path / "model.onnx"), "-o", lowered, "-n", str(ranks)]
    assert main([*arguments, "--collective", f"AllReduce={algorithm}"]) == 0
    capsys.readouterr()
    assert main(["check", lowered]) == 0, capsys.readouterr().out
    assert f"of {ranks} ranks fit" in capsys.readouterr().out
