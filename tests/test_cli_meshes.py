"""Meshes on the command line: what is drawn, and what auto takes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from graphs import MLP

from rankwise.models.manifest import Manifest
from rankwise.runtime import cli


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the working directory."""
    monkeypatch.chdir(tmp_path)
    onnx.save(MLP.model, "model.onnx")
    return tmp_path / "model.onnx"


def test_inspect_draws_the_ranks_by_axis(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shard", "model.onnx", "-o", "four", "--mesh", "pp=2,dp=2"]) == 0
    written = capsys.readouterr().out
    assert cli.main(["inspect", "four"]) == 0
    assert capsys.readouterr().out == written
    heads, *rows = [line.split() for line in written.splitlines()[-5:]]
    assert heads[:4] == ["rank", "pp", "dp", "model"]
    assert [row[:4] for row in rows] == [
        [str(rank), str(rank // 2), str(rank % 2), f"rank{rank}.onnx"] for rank in range(4)
    ]
    assert "batch           x=0" in written
    assert "stages" in written


def test_auto_takes_a_mesh_of_so_many_ranks(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["shard", "model.onnx", "-o", "d", "--mesh", "auto", "-n", "3", "--memory", "2KiB"]
    assert cli.main([*asked, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["ranks"]) == 3
    assert max(row["weight_bytes"] for row in found["ranks"]) <= 2048
    assert cli.main(asked) == 0
    assert Manifest.read("d").world_size == 3
