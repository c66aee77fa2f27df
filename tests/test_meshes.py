"""Products of stages, replicas and tensor parallelism, against one onnxruntime process."""

from __future__ import annotations

from pathlib import Path

import control_graphs
import numpy as np
import onnx
import pytest
import ranks
from comparison import assert_same
from graphs import CASES, build, normal

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import HintError, MeshError
from rankwise.models.graph import load
from rankwise.models.manifest import Manifest
from rankwise.models.mesh import Mesh, meshes
from rankwise.models.opset import DOMAIN
from rankwise.models.sharding import plan, shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.plan import best
from rankwise.models.sharding.prediction import predict
from rankwise.models.sharding.search import Terms

MESHES = ("tp=2,pp=2", "tp=2,dp=2", "pp=2,dp=2", "pp=4", "dp=4", "pp=3", "dp=3")
FEW_NODES = {
    ("sizes_as_data", "pp=4"),
    ("sizes_as_data", "pp=3"),
    ("flattened_convolution", "pp=4"),
}
CAPTURING = """(float[b,8] x, bool c) => (float[b,6] y) {
  h = MatMul(x, w1)
  g = Relu(h)
  y = If(c) <
    then_branch = yes () => (float[b,6] p) { p = MatMul(g, w2) },
    else_branch = no () => (float[b,6] q) { g2 = Neg(g) \n q = MatMul(g2, w2) }
  >
}"""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_the_same_outputs(name: str, mesh: str, tmp_path: Path) -> None:
    case = CASES[name]
    if (name, mesh) in FEW_NODES:
        with pytest.raises(MeshError, match=r"pp=[23] would do"):
            plan(load(case.model), mesh)
        return
    sharding = plan(load(case.model), mesh)
    expected = ranks.whole(case.model, case.feeds)
    for got in ranks.run(sharding, case.feeds, tmp_path):
        assert_same(got, expected)


@pytest.mark.parametrize("mesh", ["pp=2,dp=2", "pp=3"])
@pytest.mark.parametrize("flag", [True, False])
def test_what_bodies_capture_is_renamed_and_sent(mesh: str, flag: bool, tmp_path: Path) -> None:
    model = build(CAPTURING, w1=(8, 12), w2=(12, 6))
    feeds = {"x": normal(3, 8), "c": np.array(flag)}
    for got in ranks.run(plan(load(model), mesh), feeds, tmp_path):
        assert_same(got, ranks.whole(model, feeds))


@pytest.mark.parametrize("mesh", ["tp=2,pp=2", "pp=2,dp=2"])
@pytest.mark.parametrize("name", ["branches", "scanned"])
def test_bodies_that_communicate_are_on_one_stage(name: str, mesh: str, tmp_path: Path) -> None:
    case = control_graphs.CASES[name]
    sharding = plan(load(case.model), mesh)
    for feeds in case.feeds:
        for got in ranks.run(sharding, feeds, tmp_path):
            assert_same(got, ranks.whole(case.model, feeds))


def test_a_batch_of_fixed_size_is_split_beside_tp(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(CASES["packed_qkv"].model)
    for value in (*model.graph.input, model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    sharding = plan(load(model), "tp=2,dp=2")
    assert sharding.batch.batch is not None
    feeds = {"x": normal(3, 5, 24)}
    for got in ranks.run(sharding, feeds, tmp_path):
        assert_same(got, ranks.whole(model, feeds))


def test_every_collective_of_a_product_names_its_axis() -> None:
    sharding = plan(load(CASES["packed_qkv"].model), "tp=2,pp=2,dp=2")
    nodes = [node for part in sharding.parts for node in part.nodes if node.domain == DOMAIN]
    axes = {
        (node.op_type, entry.s.decode())
        for node in nodes
        for entry in node.attribute
        if entry.name == "axis_name"
    }
    assert axes >= {("AllReduce", "tp"), ("AllGather", "dp"), ("Send", "pp"), ("Recv", "pp")}
    assert all(any(e.name == "axis_name" for e in node.attribute) for node in nodes)
    plain = plan(load(CASES["packed_qkv"].model), "tp=2")
    assert not any(e.name == "axis_name" for n in plain.parts[0].nodes for e in n.attribute)


def test_a_manifest_says_who_holds_what(tmp_path: Path) -> None:
    onnx.save(CASES["mlp"].model, tmp_path / "model.onnx")
    manifest = shard(tmp_path / "model.onnx", tmp_path / "d", {"pp": 2, "dp": 2})
    assert Manifest.read(tmp_path / "d") == manifest
    assert (manifest.mesh, manifest.world_size) == ({"pp": 2, "dp": 2}, 4)
    assert [entry.stage for entry in manifest.ranks] == [0, 0, 1, 1]
    ends = [(entry.first, entry.last) for entry in manifest.ranks[::2]]
    assert (ends[0][0], ends[1][1]) == ("MatMul 'h'", "Gemm 'y'")
    assert manifest.collectives == {"Send": 2, "Broadcast": 2, "AllGather": 1}
    assert manifest.batch == {"x": 0}
    assert len(manifest.predicted["stage_seconds"]) == 2
    assert manifest.predicted["seconds"] > sum(manifest.predicted["stage_seconds"])


@pytest.mark.parametrize("mesh", ["pp=3", "dp=3", "auto", None])
def test_one_file_of_whole_weights_takes_the_mesh_when_it_runs(
    mesh: str | None, tmp_path: Path
) -> None:
    case = CASES["mlp"]
    onnx.save(case.model, tmp_path / "model.onnx")
    made_for = "dp=3" if mesh is None else "tp=2,pp=2"
    shard(tmp_path / "model.onnx", tmp_path / "d", made_for, representation="spmd")

    def work(comm: Communicator) -> tuple[str, list[np.ndarray]]:
        with InferenceSession(tmp_path / "d", comm=comm, mesh=mesh) as session:
            return str(session.mesh), session.run(None, case.feeds)

    for used, got in local.run(3, work):
        assert_same(got, ranks.whole(case.model, case.feeds))
        assert used == made_for if mesh is None else mesh == "auto" or used == mesh


def test_auto_takes_the_fastest_mesh_that_fits() -> None:
    analysis = analyse(load(CASES["branches"].model))
    found = best(analysis, 4)
    every = [predict(plan(load(CASES["branches"].model), mesh)).seconds for mesh in meshes(4)]
    assert predict(found).seconds == min(every)
    limit = analysis.graph.weight_bytes // 3
    assert max(part.weight_bytes for part in best(analysis, 4, Terms(memory=limit)).parts) <= limit
    with pytest.raises(MeshError, match=r"; (tp|pp)=\S+ would do"):
        best(analysis, 2, Terms(memory=limit // 2))


def test_a_mesh_of_another_size_says_which_are_of_that_size() -> None:
    graph = load(CASES["mlp"].model)
    with pytest.raises(MeshError, match="a mesh of 4 ranks, got tp=3, of 3; tp=4, pp=2,tp=2, "):
        plan(graph, "tp=3", ranks=4)
    with pytest.raises(MeshError, match="give --ranks"):
        plan(graph, "auto")
    assert plan(graph, "auto", ranks=3).mesh.size == 3


def test_an_output_that_cannot_be_sent_is_refused() -> None:
    model = build("(float[b,2] x) => (string[b,2] y) { z = Relu(x) \n y = Cast <to=8> (z) }")
    with pytest.raises(MeshError, match="'y' is no tensor of numbers"):
        assert plan(load(model), "pp=2").parts


def test_limits_are_refused_for_what_is_sharded_already(tmp_path: Path) -> None:
    onnx.save(CASES["mlp"].model, tmp_path / "model.onnx")
    shard(tmp_path / "model.onnx", tmp_path / "d", "pp=2")
    with pytest.raises(HintError, match=r"no hints, memory or batch_dim, since .* is sharded"):
        local.run(2, lambda comm: InferenceSession(tmp_path / "d", comm=comm, batch_dim="0"))


def test_a_batch_that_is_named_is_kept_for_ranks_that_cut_as_they_load(tmp_path: Path) -> None:
    model = build("(float[b,8] x) => (float[b,8] y) { y = CumSum(x, one) }", one=np.int64(1))
    onnx.save(model, tmp_path / "model.onnx")
    shard(tmp_path / "model.onnx", tmp_path / "d", "dp=2", representation="spmd", batch_dim="x=0")

    def work(comm: Communicator) -> tuple[tuple[str, ...], set[str]]:
        with InferenceSession(tmp_path / "d", comm=comm) as session:
            session.run(None, {"x": normal(3, 8)})
            return session.notes, set(session.trace.operators)

    assert local.run(2, work) == [((), {"AllGather"})] * 2


@pytest.mark.parametrize("mesh", [Mesh(pp=2, dp=3, tp=4), Mesh(tp=5), Mesh()])
def test_ranks_lie_with_stages_the_slowest_and_tp_the_fastest(mesh: Mesh) -> None:
    places = [mesh.place(rank) for rank in range(mesh.size)]
    assert places == sorted(places)
    assert len(set(places)) == mesh.size
    assert all(Mesh.parse(str(each)).size == 12 for each in meshes(12))
    assert len({str(each) for each in meshes(12)}) == len(meshes(12)) == 18
