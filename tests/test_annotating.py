"""What is chosen to be sharded, written as annotations and executed, equals the plain graph."""

from pathlib import Path
from typing import Any

import graphs
import onnx
import onnxruntime
import pytest
from comparison import assert_same
from conftest import MpiRun
from sessions import run

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.dialects.annotations import check
from rankwise.models.errors import HintError, MeshError
from rankwise.models.manifest import Manifest
from rankwise.models.sharding import shard


@pytest.mark.parametrize(
    ("name", "ranks"),
    [*((name, 2 + k % 2) for k, name in enumerate(graphs.CASES)), ("packed_qkv", 3)],
)
def test_annotated_graphs_equal_plain_ones(name: str, ranks: int, tmp_path: Path) -> None:
    case = graphs.CASES[name]
    onnx.save(case.model, tmp_path / "plain.onnx")
    made = tmp_path / "made"
    manifest = shard(tmp_path / "plain.onnx", made, f"tp={ranks}", representation="annotated")
    written = onnx.load(made / "model.onnx")
    assert check(written) == []
    assert manifest.collectives, "nothing is sharded"
    wanted = onnxruntime.InferenceSession(case.model.SerializeToString()).run(None, case.feeds)
    # A backend may ignore annotations: the file alone is the plain graph.
    alone = onnxruntime.InferenceSession(made / "model.onnx").run(None, case.feeds)
    assert_same(alone, wanted)
    for got in run(ranks, made, case.feeds):
        assert_same(got, wanted)


@pytest.mark.parametrize(
    ("name", "mesh", "ranks"),
    [("mlp", "pp=2", 2), ("mlp", "pp=2,tp=2", 4), ("cnn", "pp=3", 3), ("structure", "pp=2", 2)],
)
def test_stages_too(name: str, mesh: str, ranks: int, tmp_path: Path) -> None:
    case = graphs.CASES[name]
    onnx.save(case.model, tmp_path / "plain.onnx")
    manifest = shard(tmp_path / "plain.onnx", tmp_path / "m", mesh, representation="annotated")
    written = onnx.load(tmp_path / "m" / "model.onnx")
    stages = {c.pipeline_stage for node in written.graph.node for c in node.device_configurations}
    assert stages == {entry.stage for entry in manifest.ranks}
    wanted = onnxruntime.InferenceSession(case.model.SerializeToString()).run(None, case.feeds)
    for got in run(ranks, tmp_path / "m", case.feeds):
        assert_same(got, wanted)


def test_replicas_are_refused(tmp_path: Path) -> None:
    onnx.save(graphs.MLP.model, tmp_path / "plain.onnx")
    with pytest.raises(MeshError, match="tp and pp for annotations"):
        shard(tmp_path / "plain.onnx", tmp_path / "m", "dp=2", representation="annotated")


def test_what_ranks_hold_is_in_the_manifest(tmp_path: Path) -> None:
    onnx.save(graphs.MLP.model, tmp_path / "plain.onnx")
    annotated = shard(tmp_path / "plain.onnx", tmp_path / "a", "tp=3", representation="annotated")
    usual = shard(tmp_path / "plain.onnx", tmp_path / "b", "tp=3")
    assert annotated.representation == "annotated"
    assert Manifest.read(tmp_path / "a") == annotated
    for a, b in zip(annotated.ranks, usual.ranks, strict=True):
        assert a.weight_bytes <= b.weight_bytes + 64
    assert annotated.collectives == usual.collectives


@pytest.mark.parametrize(
    ("made", "asked", "runs"),
    [
        ("pp=2", None, "pp=2"),
        ("pp=2", "pp=2", "pp=2"),
        ("pp=2", "tp=2", "tp=2"),
        ("tp=2", "pp=2", "pp=2"),
        ("tp=2", "tp=3", "tp=3"),
    ],
)
def test_a_directory_runs_on_its_mesh_or_on_the_one_that_is_asked_for(
    made: str, asked: str | None, runs: str, tmp_path: Path
) -> None:
    case = graphs.CASES["mlp"]
    onnx.save(case.model, tmp_path / "plain.onnx")
    shard(tmp_path / "plain.onnx", tmp_path / "m", made, representation="annotated")
    wanted = onnxruntime.InferenceSession(case.model.SerializeToString()).run(None, case.feeds)

    def answer(comm: Communicator) -> tuple[str, list[Any]]:
        with InferenceSession(tmp_path / "m", comm=comm, mesh=asked) as session:
            return str(session.mesh), session.run(None, case.feeds)

    for mesh, got in local.run(int(runs[-1]), answer):
        assert mesh == runs
        assert_same(got, wanted)


@pytest.mark.parametrize("name", ["m", "m/model.onnx"])
def test_a_mesh_of_other_ranks_and_hints_beside_annotations_are_refused(
    name: str, tmp_path: Path
) -> None:
    onnx.save(graphs.MLP.model, tmp_path / "plain.onnx")
    shard(tmp_path / "plain.onnx", tmp_path / "m", "tp=2", representation="annotated")

    def load(size: int, **options: Any) -> None:
        local.run(size, lambda comm: InferenceSession(tmp_path / name, comm=comm, **options))

    with pytest.raises(MeshError, match="the mesh tp=5 is of 5 ranks, but there are 2"):
        load(2, mesh="tp=5")
    with pytest.raises(MeshError, match="as many ranks as a configuration"):
        load(3)
    with pytest.raises(HintError, match="the model has device configurations already"):
        load(2, memory=1)


@pytest.mark.mpi
def test_the_command_line_shards_and_runs(mpirun: MpiRun, tmp_path: Path) -> None:
    onnx.save(graphs.PACKED_QKV.model, tmp_path / "plain.onnx")
    shard(tmp_path / "plain.onnx", tmp_path / "made", "tp=2", representation="annotated")
    done = mpirun(2, ["-m", "rankwise", "run", str(tmp_path / "made"), "--compare"])
    assert done.returncode == 0, done.stderr
    assert "compare  equal" in done.stdout
