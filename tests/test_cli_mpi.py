"""The verb run on real ranks: right answers, and one message where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import MpiRun
from graphs import MLP, build

from rankwise.models.manifest import Manifest
from rankwise.models.sharding import shard
from rankwise.runtime import arrays

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(180)]

RANKWISE = ["-m", "rankwise"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with models and inputs, good ones and bad ones."""
    monkeypatch.chdir(tmp_path)
    onnx.save(MLP.model, "model.onnx")
    x = MLP.feeds["x"]
    arrays.save("in.npz", MLP.feeds)
    arrays.save("lacks.npz", {"z": x})
    arrays.save("double.npz", {"x": x.astype(np.float64)})
    arrays.save("wide.npz", {"x": np.ones((5, 17), np.float32)})
    Path("text.npz").write_text("no npz")
    Path("short.onnx").write_bytes(Path("model.onnx").read_bytes()[:300])
    onnx.save(build("(float[b,8] x) => (float[b,8] y) { y = Softmax(x) }"), "soft.onnx")
    return tmp_path


def expected() -> np.ndarray:
    return onnxruntime.InferenceSession("model.onnx").run(None, MLP.feeds)[0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_sharded_run_equals_one_process(mpirun: MpiRun, place: Path, ranks: int) -> None:
    shard("model.onnx", "d", f"tp={ranks}", representation="spmd" if ranks == 3 else "per-rank")
    source = "model.onnx" if ranks == 4 else "d"
    arguments = f"run {source} --inputs in.npz --outputs out.npz --compare --report r.json"
    done = mpirun(ranks, [*RANKWISE, *arguments.split()])
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(arrays.load("out.npz")["y"], expected(), rtol=1e-3, atol=1e-4)
    report = json.loads(Path("r.json").read_text())
    assert (report["world_size"], report["mesh"]) == (ranks, f"tp={ranks}")
    assert [entry["rank"] for entry in report["ranks"]] == list(range(ranks))
    assert report["compare"]["max_abs_diff"] < 1e-4
    assert (sum(entry["bytes_sent"] for entry in report["ranks"]) > 0) == (ranks > 1)
    assert done.stdout.count("compare  equal") == 1
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(("ranks", "mesh"), [(4, "pp=2,dp=2"), (3, "pp=3"), (4, "auto")])
def test_a_run_on_a_mesh_equals_one_process(
    mpirun: MpiRun, place: Path, ranks: int, mesh: str
) -> None:
    arguments = (
        f"run model.onnx --mesh {mesh} --memory 1MB --inputs in.npz --compare --report r.json"
    )
    done = mpirun(ranks, [*RANKWISE, *arguments.split()])
    assert done.returncode == 0, done.stderr
    report = json.loads(Path("r.json").read_text())
    assert report["mesh"] == mesh or mesh == "auto"
    assert report["compare"]["max_abs_diff"] < 1e-4
    assert done.stdout.count("compare  equal") == 1
    assert done.stderr.strip() == ""


def test_hints_hold_for_ranks_that_cut_as_they_load(mpirun: MpiRun, place: Path) -> None:
    Path("hints.yaml").write_text("w1: {dim: 0}\n")
    shard("model.onnx", "wanted", "tp=3", hints={"w1": {"dim": 0}})
    arguments = "run model.onnx --inputs in.npz --compare --report r.json --hints hints.yaml"
    done = mpirun(3, [*RANKWISE, *arguments.split()])
    assert done.returncode == 0, done.stderr
    held = [entry["weight_bytes"] for entry in json.loads(Path("r.json").read_text())["ranks"]]
    assert held == [entry.weight_bytes for entry in Manifest.read("wanted").ranks]
    shard("model.onnx", "plain", "tp=3")
    assert held != [entry.weight_bytes for entry in Manifest.read("plain").ranks]


def test_run_starts_mpirun_itself(place: Path) -> None:
    arguments = "run -n 2 model.onnx --inputs in.npz --outputs out.npz --repeat 2 --threads 1"
    done = subprocess.run(
        [sys.executable, *RANKWISE, *arguments.split()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(arrays.load("out.npz")["y"], expected(), rtol=1e-3, atol=1e-4)


def test_run_passes_codes_and_the_one_line_on(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, *RANKWISE, "run", "-n", "2", "nothing.onnx"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == ("rankwise: expected an ONNX file, but nothing.onnx does not exist\n")


def test_ranks_may_run_their_own_graphs_on_their_own_inputs(mpirun: MpiRun, place: Path) -> None:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    text = f"{header} g (float[n] x) => (float[m] y) {{ y = rankwise.AllGather(x) }}"
    onnx.save(onnx.parser.parse_model(text), "gather.onnx")
    for rank in range(2):
        arrays.save(f"in{rank}.npz", {"x": np.full(rank + 1, rank, np.float32)})
    arguments = "run gather.onnx --inputs in{rank}.npz --outputs out{rank}.npz"
    done = mpirun(2, [*RANKWISE, *arguments.split()])
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert arrays.load(f"out{rank}.npz")["y"].tolist() == [0, 1, 1]


def test_an_unequal_result_is_code_1(mpirun: MpiRun, place: Path) -> None:
    shard("model.onnx", "d", "tp=2")
    other = onnx.load("model.onnx")
    weight = onnx.numpy_helper.to_array(other.graph.initializer[0]) + 1
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    onnx.save(other, "other.onnx")
    arguments = "run d --inputs in.npz --compare --source other.onnx --report r.json"
    done = mpirun(2, [*RANKWISE, *arguments.split()])
    assert done.returncode == 1
    assert "compare  NOT equal" in done.stdout
    assert "rankwise:" not in done.stderr
    compared = json.loads(Path("r.json").read_text())["compare"]
    assert (compared["equal"], compared["outputs"].keys()) == (False, {"y"})


BAD = {
    "missing model": (2, "run nothing.onnx", 2, "nothing.onnx does not exist"),
    "truncated model": (2, "run short.onnx", 2, "short.onnx is no ONNX model"),
    "missing inputs": (2, "run model.onnx --inputs no.npz", 2, "no.npz"),
    "lacking input": (2, "run model.onnx --inputs lacks.npz", 2, "missing ['x']"),
    "wrong dtype": (3, "run model.onnx --inputs double.npz", 2, "expected float32, got float64"),
    "wrong shape": (2, "run model.onnx --inputs wide.npz", 2, "[b, 16], got [5, 17]"),
    "no npz": (2, "run model.onnx --inputs text.npz", 2, "text.npz is no npz"),
    "other mesh": (3, "run model.onnx --mesh tp=2", 2, "of 2 ranks, but there are 3"),
    "memory in words": (2, "run model.onnx --memory much", 2, "such as 512MB or 2GiB, got 'much'"),
    "no such batch": (2, "run model.onnx --mesh dp=2 --batch-dim q=0", 2, "with inputs among x"),
    "other ranks": (3, "run d", 2, "d is sharded for 2 ranks, but there are 3"),
    "other -n": (2, "run d -n 3", 2, "mpirun has started 2 ranks, but -n is 3"),
    "nothing to shard": (2, "run soft.onnx", 1, "nothing in this graph can be sharded"),
    "unwritable": (2, "run d --outputs no/where/out.npz", 2, "out.npz cannot be written"),
    "unknown verb": (2, "walk d", 2, "invalid choice: 'walk'"),
    "source gone": (2, "run gone --compare", 2, "name it with --source"),
    "source changed": (2, "run changed --compare", 2, "model.onnx has changed since"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_once_and_in_one_line(mpirun: MpiRun, place: Path, name: str) -> None:
    ranks, arguments, code, message = BAD[name]
    shard("model.onnx", "d", "tp=2")
    for other in ("gone", "changed"):
        shard("model.onnx", other, "tp=2")
    manifest = Path("gone/manifest.json")
    manifest.write_text(manifest.read_text().replace("model.onnx", "moved.onnx"))
    manifest = Path("changed/manifest.json")
    digest = json.loads(manifest.read_text())["source"]["sha256"]
    manifest.write_text(manifest.read_text().replace(digest, "0" * 64))
    done = mpirun(ranks, [*RANKWISE, *arguments.split()])
    said = [line for line in done.stderr.splitlines() if line.startswith("rankwise: ")]
    assert (done.returncode, len(said)) == (code, 1), done.stderr
    assert message in said[0]
    assert "Traceback" not in done.stderr


def test_verbs_without_ranks_are_done_once(mpirun: MpiRun, place: Path) -> None:
    done = mpirun(2, [*RANKWISE, "schedule", "allreduce", "ring", "-n", "2"])
    assert done.returncode == 0
    assert done.stdout.count("rank 0") == 1
    done = mpirun(2, [*RANKWISE, "--version"])
    assert (done.returncode, done.stdout) == (0, "rankwise 0.1.0\n")


def test_a_failure_in_the_midst_names_rank_node_and_shapes(mpirun: MpiRun, place: Path) -> None:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    text = f"{header} g (float[n] x) => (float[n] y) {{ y = rankwise.AllReduce(x) }}"
    onnx.save(onnx.parser.parse_model(text), "reduce.onnx")
    broken = f"{header} g (float[n] x) => (float[n] y) {{ a = Reshape(x, s) y = Neg(a) }}"
    made = onnx.parser.parse_model(broken)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7]), "s"))
    node = onnx.helper.make_node("AllReduce", ["y"], ["z"], "sum_up", domain="rankwise")
    made.graph.node.append(node)
    made.graph.output.append(onnx.ValueInfoProto(name="z"))
    onnx.save(made, "broken.onnx")
    Path("reduce0.onnx").symlink_to("reduce.onnx")
    Path("reduce1.onnx").symlink_to("broken.onnx")
    done = mpirun(2, [*RANKWISE, "run", "reduce{rank}.onnx"])
    said = [line for line in done.stderr.splitlines() if line.startswith("rankwise: ")]
    assert (done.returncode, len(said)) == (1, 1), done.stderr
    assert "[E:onnxruntime" not in done.stderr
    assert "rank 1 on float32 (2,): " in said[0]
    assert "Reshape" in said[0]
