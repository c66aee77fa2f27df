"""Files that conversions write: whole or seen to be none; and input that they refuse in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, parser
from ort_distributed_cases import ORT
from programs import model
from sessions import operand

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models import files
from rankwise.models.dialects.ort_distributed import lowered
from rankwise.models.errors import ModelError
from rankwise.models.manifest import Manifest
from rankwise.models.representations import per_rank
from rankwise.runtime.cli import main

ENDS = "(float[2] x) => (float[2] y)"


@pytest.mark.parametrize("how", ["ranks", "changed"])
def test_a_directory_that_is_written_over_is_incomplete_until_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source, other, out = tmp_path / "m.onnx", tmp_path / "other", tmp_path / "out"
    made = per_rank(model("y = R.AllReduce(x)", ENDS), 2)
    onnx.save(made[0], source)
    for folder in (out, other):
        files.write_ranks(made, source, folder, None)
    changed = files.models_of(other)

    def stopped(self: Path, data: bytes) -> int:
        if self.name == "rank1.onnx":
            raise KeyboardInterrupt
        return write(self, data)

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", stopped)
    with pytest.raises(KeyboardInterrupt):
        if how == "ranks":
            files.write_ranks(made, source, out, None)
        else:
            files.write_changed(changed, other, out)
    with pytest.raises(ModelError, match=r"has no manifest\.json"):
        Manifest.read(out)


def test_a_source_within_the_directory_stays(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "out"
    made = per_rank(model("y = R.AllReduce(x)", ENDS), 2)
    onnx.save(made[0], source)
    files.write_ranks([*made, made[0]], source, out, None)
    files.write_ranks(made, out / "rank2.onnx", out, None)
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "rank0.onnx", "rank1.onnx", "rank2.onnx",
    }  # fmt: skip


def test_distributed_operators_become_files_that_say_all_of_themselves(tmp_path: Path) -> None:
    case = ORT["matmul_rs_sr_rr"]
    onnx.save(case.model(0), tmp_path / "theirs.onnx")
    given = ["convert", str(tmp_path / "theirs.onnx"), "--to", "per-rank"]
    assert main([*given, "-o", str(tmp_path / "ours"), "--ranks", "2"]) == 0
    for rank in range(2):
        made = onnx.load(tmp_path / "ours" / f"rank{rank}.onnx")
        onnx.checker.check_model(made)
        metadata = {entry.key: entry.value for entry in made.metadata_props}
        assert metadata["rankwise.mesh"] == "tp=2" and metadata["rankwise.rank"] == str(rank)


def test_functions_keep_defaults_where_distributed_operators_are_lowered() -> None:
    made = ORT["matmul_rs_sr_rr"].model(0)
    made.functions.append(
        parser.parse_function(
            '<domain: "own", opset_import: ["" : 18]> bent <slope: float = 0.5> (a) => (b)'
            " { b = LeakyRelu <alpha: float = @slope> (a) }"
        )
    )
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.graph.node.insert(0, helper.make_node("bent", ["x0"], ["bent"], domain="own"))
    made.graph.node[1].input[0] = "bent"
    bent = lowered(made, 0, 2).graph.node[0]
    assert [(entry.name, entry.f) for entry in bent.attribute] == [("alpha", 0.5)]


def without_import(made: onnx.ModelProto) -> onnx.ModelProto:
    made.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"))
    made.graph.output[0].name = "z"
    return made


def test_a_domain_that_is_not_imported_is_taken_as_onnxruntime_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out"
    onnx.save(without_import(model("y = R.AllReduce(x)", ENDS)), path)
    assert main(["inspect", str(path)]) == 0
    assert "AllReduce" in capsys.readouterr().out
    given = [str(path), "-o", str(out), "--to", "per-rank", "--ranks", "2"]
    assert main(["convert", *given]) == 0

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(out, comm=comm) as session:
            return session.run(None, {"x": operand(0, 2)})[0]

    results = local.run(2, on_rank)
    np.testing.assert_array_equal(*results)


SCAN = "y = Scan <BAD, body = b (e) => (s) { s = R.AllReduce(e) }> (x)"


@pytest.mark.parametrize(
    ("verb", "body", "message"),
    [
        ("convert", "y = R.Broadcast<root=5>(x)", "Broadcast 'y': expected root to be a rank"),
        ("convert", "y = R.Gather<root=-1>(x)", "expected root to be a rank below 2, got -1"),
        ("check", SCAN.replace("BAD", "num_scan_inputs=1.5"), "from 1 to 1 inputs, got 1.5"),
        (
            "check", SCAN.replace("BAD", "num_scan_inputs=1, scan_input_axes=0"),
            "expected integers as scan_input_axes, got 0",
        ),
        (
            "check", SCAN.replace("BAD", 'num_scan_inputs=1, scan_input_directions="x"'),
            "expected integers as scan_input_directions, got 'x'",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, body: str, message: str
) -> None:
    path = str(tmp_path / "m.onnx")
    onnx.save(model(body, "(float[2,2] x) => (y)"), path)
    options = ["--to", "per-rank", "--ranks", "2", "-o", str(tmp_path / "out")]
    assert main([verb, path, *(options if verb == "convert" else ["-n", "2"])]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


@pytest.mark.parametrize("verb", ["inspect", "shard"])
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("num_scan_inputs=1.5", "from 1 to 1 inputs, got 1.5"),
        ("num_scan_inputs=7", "from 1 to 1 inputs, got 7"),
        ("num_scan_inputs=1, scan_input_axes=0", "expected integers as scan_input_axes, got 0"),
        ("num_scan_inputs=1, scan_input_axes=[2]", "expected scan_input_axes from -2 to 1, got 2"),
        ("num_scan_inputs=1, scan_output_axes=[0, 1]", "expected 1 scan_output_axes, got 2"),
        ("num_scan_inputs=1, scan_output_axes=[-3]", "scan_output_axes from -2 to 1, got -3"),
    ],
)
def test_a_scan_that_does_not_fit_is_one_line_where_nothing_communicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, attributes: str, message: str
) -> None:
    path = str(tmp_path / "m.onnx")
    body = f"h = MatMul(x, x) y = Scan <{attributes}, body = b (e) => (s) {{ s = Neg(e) }}> (h)"
    onnx.save(model(body, "(float[2,2] x) => (y)"), path)
    options = ["--mesh", "tp=2", "-o", str(tmp_path / "out")] if verb == "shard" else []
    assert main([verb, path, *options]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
