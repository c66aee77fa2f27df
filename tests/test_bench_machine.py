"""The script that measures a core: what it compares with predictions."""

from __future__ import annotations

from pathlib import Path

import graphs
import onnx
import onnxruntime
import pytest
import script

from rankwise.models.graph import load
from rankwise.models.sharding import describe
from rankwise.models.sharding.analysis import analyse

bench_machine = script.load("bench_machine")


def test_a_prediction_stands_beside_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlp.onnx"
    onnx.save(graphs.MLP.model, path)
    bench_machine.predictions([path])
    _, name, predicted, measured, ratio, _ = capsys.readouterr().out.splitlines()[-1].split("|")
    assert name.strip() == "mlp"
    assert float(predicted) == pytest.approx(1e3 * describe(path).meshes[0].seconds, rel=1e-2)
    assert float(measured) > 0
    assert float(ratio) >= 1


def test_what_is_fed_has_the_sizes_that_predictions_are_for(tmp_path: Path) -> None:
    path = tmp_path / "packed.onnx"
    onnx.save(graphs.CASES["packed_qkv"].model, path)
    fed = bench_machine.feeds(analyse(load(path)), onnxruntime.InferenceSession(path))
    assert {name: array.shape for name, array in fed.items()} == {"x": (1, 256, 24)}


def test_a_model_with_states_is_refused(tmp_path: Path) -> None:
    onnx.save(graphs.CASES["cached"].model, tmp_path / "cached.onnx")
    with pytest.raises(SystemExit, match="expected a model without states"):
        bench_machine.predictions([tmp_path / "cached.onnx"])
