"""Models that say where tensors lie, written as a directory of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import annotated
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from ort_distributed_cases import ORT
from sessions import operand

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.plan.seal import seal_of
from rankwise.runtime.cli import main


def test_an_annotated_graph_becomes_a_directory_of_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = annotated.model(
        "g (float[n,6] x) => (float[n,4] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }", 3
    )
    for name, weight in (("w1", operand(1, 6, 64)), ("w2", operand(2, 64, 4))):
        made.graph.initializer.append(numpy_helper.from_array(weight, name))
    annotated.annotate(made, "h", {"w1": annotated.split(1, 0, 1, 2)})
    annotated.annotate(made, "y", {"w2": annotated.split(0, 0, 1, 2)})
    source, parts = tmp_path / "annotated.onnx", tmp_path / "parts"
    onnx.save(made, source)
    convert = ["convert", str(source), "-o", str(parts), "--to", "per-rank"]
    assert main(convert) == 2
    assert "expected --ranks" in capsys.readouterr().err
    assert main([*convert, "--ranks", "3"]) == 0
    assert main(["check", str(parts)]) == 0

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(parts, comm=comm) as session:
            assert session.weight_bytes < (6 * 64 + 64 * 4) * 4 / 2
            return session.run(None, {"x": operand(0, 5, 6)})[0]

    expected = np.maximum(operand(0, 5, 6) @ operand(1, 6, 64), 0) @ operand(2, 64, 4)
    for y in local.run(3, on_rank):
        np.testing.assert_allclose(y, expected)
    assert all(map(seal_of, (onnx.load(parts / f"rank{rank}.onnx") for rank in range(3))))


@pytest.mark.parametrize("op", ["MatMul", "Reshape", "ReduceSum"])
def test_distributed_operators_become_a_directory_of_ranks(
    op: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in ORT.values() if case.op == op)
    source, parts = tmp_path / "model.onnx", tmp_path / "parts"
    onnx.save(case.model(0), source)
    assert main(["convert", str(source), "-o", str(parts), "--to", "rankwise"]) == 2
    assert "convert it --to per-rank" in capsys.readouterr().err
    convert = ["convert", str(source), "-o", str(parts), "--to", "per-rank"]
    assert main([*convert, "--ranks", str(case.ranks)]) == 0
    assert main(["check", str(parts)]) == 0

    def on_rank(comm: Communicator) -> None:
        feeds = {f"x{k}": part for k, part in enumerate(case.parts(comm.rank))}
        with rankwise.InferenceSession(parts, comm=comm) as session:
            (y,) = session.run(None, feeds)
        np.testing.assert_allclose(y, case.wanted.part(case.whole(), comm.rank))

    local.run(case.ranks, on_rank)
