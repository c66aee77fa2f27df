"""Sharded graphs, run side by side, against onnxruntime on the whole one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import graphs
import lockstep
import numpy as np
import onnx
import onnxruntime
import pytest

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import ModelError, NothingToShard
from rankwise.models.graph import load
from rankwise.models.manifest import Manifest
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard, shard_rank
from rankwise.models.sharding.analysis import analyse, tie
from rankwise.models.sharding.candidates import candidates, conflicts, shardable
from rankwise.models.sharding.heads import small_groups
from rankwise.models.sharding.layout import Layout
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, write_part

SIZES = (2, 3, 4)


def reference(case: graphs.Case) -> list[Any]:
    session = onnxruntime.InferenceSession(case.model.SerializeToString())
    return list(session.run(None, case.feeds))


def written(sharding: Sharding, directory: Path) -> list[onnx.ModelProto]:
    """Write all parts and load them again."""
    for part in sharding.parts:
        write_part(sharding, part, directory / f"rank{part.rank}.onnx", lambda done, total: None)
    return lockstep.load(directory)


def assert_same(models: list[onnx.ModelProto], case: graphs.Case, expected: list[Any]) -> None:
    for outputs in lockstep.run(models, case.feeds):
        for got, want in zip(outputs, expected, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", graphs.CASES)
def test_every_axis_that_may_be_cut_gives_the_same_outputs(
    name: str, size: int, tmp_path: Path
) -> None:
    case = graphs.CASES[name]
    expected, analysis = reference(case), analyse(load(case.model))
    atoms = [atom for atom, _, _ in shardable(analysis, size)]
    assert atoms
    for k, atom in enumerate(atoms):
        directory = tmp_path / str(k)
        directory.mkdir()
        choice = Choice((), Layout(frozenset([atom]), size), 0.0, ())
        models = written(Sharding(analysis, Mesh(tp=size), choice), directory)
        assert_same(models, case, expected)


@pytest.mark.parametrize("size", (1, *SIZES))
@pytest.mark.parametrize("name", graphs.CASES)
def test_what_is_chosen_gives_the_same_outputs(name: str, size: int, tmp_path: Path) -> None:
    case = graphs.CASES[name]
    models = written(plan(load(case.model), Mesh(tp=size)), tmp_path)
    assert_same(models, case, reference(case))


OLD_GEMM = (
    "(float[b,8] x) => (float[b,6] y) { h = MatMul(x, w1) \n y = Gemm(h, w2, b2) }",
    {"w1": (8, 12), "w2": (12, 6), "b2": (6,)},
)
OLD_TABLE = (
    "(int64[2,n] x) => (float[2,n,4] y) { e = Gather(table, x) \n y = MatMul(e, w) }",
    {"table": (10, 8), "w": (8, 4)},
)
OLD_SHAPE = (
    """(float[b,8] x) => (float[b,6] y) {
      h = MatMul(x, w1)
      s = Shape(h)
      e = Expand(b1, s)
      a = Add(h, e)
      y = MatMul(a, w2)
    }""",
    {"w1": (8, 12), "b1": (12,), "w2": (12, 6)},
)
NARROW_SLICE = (
    "(float[b,8] x) => (float[b,6] y) { h = MatMul(x, w) \n y = Slice(h, i0, i6, i1) }",
    {
        "w": (8, 12),
        "i0": np.array([0], np.int32),
        "i6": np.array([6], np.int32),
        "i1": np.array([1], np.int32),
    },
)
BOOL_TABLE = (
    "(int64[2,n] x) => (float[2,n,9] y) { m = Gather(t, x) \n y = Where(m, one, w) }",
    {"t": np.arange(90).reshape(10, 9) % 3 > 0, "w": (9,), "one": np.float32(1)},
)


@pytest.mark.parametrize("opset", (8, 10, 18))
@pytest.mark.parametrize("graph", (OLD_GEMM, OLD_TABLE, OLD_SHAPE, NARROW_SLICE, BOOL_TABLE))
def test_onnxruntime_takes_every_part(
    graph: tuple[str, dict[str, Any]], opset: int, tmp_path: Path
) -> None:
    if opset < 10 and graph in (NARROW_SLICE, BOOL_TABLE):
        pytest.skip("the operators are younger")
    model = graphs.build(graph[0], opset, **graph[1])
    is_float = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    case = graphs.Case(
        model, {"x": graphs.normal(3, 8) if is_float else np.array([[1, 9, 3], [0, 4, 2]])}
    )
    analysis = analyse(load(model))
    for k, (atom, _, _) in enumerate(shardable(analysis, 3)):
        directory = tmp_path / str(k)
        directory.mkdir()
        choice = Choice((), Layout(frozenset([atom]), 3), 0.0, ())
        sharding = Sharding(analysis, Mesh(tp=3), choice)
        written(sharding, directory)
        if not sharding.parts[0].collectives:
            continue
        for outputs in local.run(3, partial(answer, directory, case)):
            for got, want in zip(outputs, reference(case), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def answer(directory: Path, case: graphs.Case, comm: Communicator) -> list[Any]:
    with InferenceSession(directory / f"rank{comm.rank}.onnx", comm=comm) as session:
        return session.run(None, case.feeds)


def test_an_mlp_is_cut_by_column_and_row_with_one_allreduce(tmp_path: Path) -> None:
    manifest = shard(_saved(graphs.MLP, tmp_path), tmp_path / "out", "tp=2")
    assert manifest.collectives == {"AllReduce": 1}
    first = onnx.load(tmp_path / "out" / "rank0.onnx", load_external_data=False)
    shapes = {tensor.name: list(tensor.dims) for tensor in first.graph.initializer}
    assert shapes["w1/local"] == [16, 15]
    assert shapes["w2/local"] == [15, 9]


def test_the_bias_of_a_partial_sum_is_on_one_rank_only() -> None:
    sharding = plan(load(graphs.MLP.model), Mesh(tp=3))
    assert ["b2" in part.held for part in sharding.parts] == [True, False, False]


def test_partial_sums_that_meet_are_reduced_once() -> None:
    sharding = plan(load(graphs.BRANCHES.model), Mesh(tp=2))
    reduced = [n.output[0] for n in sharding.parts[1].nodes if n.op_type == "AllReduce"]
    assert reduced == ["both", "z0", "u0"]


def test_partial_sums_that_must_not_meet_are_reduced_apart() -> None:
    sharding = plan(load(graphs.APART.model), Mesh(tp=2))
    reduced = [n.output[0] for n in sharding.parts[1].nodes if n.op_type == "AllReduce"]
    assert reduced == ["a", "c", "row", "d", "p", "q"]


def test_half_precision_sums_are_reduced_where_they_are_made() -> None:
    sharding = plan(load(_half(graphs.BRANCHES).model), Mesh(tp=2))
    assert sharding.parts[0].collectives == {"AllReduce": 4}


def test_what_a_run_sends_counts_every_collective_that_is_written() -> None:
    part = plan(load(graphs.BRANCHES.model), Mesh(tp=4)).parts[0]
    assert part.sent == 3 * 2 * (4 * 16) * 3 / 4


def test_packed_heads_are_cut_by_head_in_each_third() -> None:
    analysis = analyse(load(graphs.PACKED_QKV.model))
    (heads,) = (c for c in candidates(analysis, 3) if c.atom.size.first == 6)
    layout = Layout(frozenset([heads.atom]), 3)
    kept = layout.indices(analysis.tensors["w"].axes[1], 1)
    thirds = np.arange(72).reshape(3, 6, 4)
    np.testing.assert_array_equal(kept, thirds[:, 2:4].reshape(-1))


def test_queries_are_taken_one_by_one_where_their_groups_are_too_few(tmp_path: Path) -> None:
    case = graphs.GROUPED_QUERIES
    analysis = analyse(load(case.model))
    assert small_groups(analysis, 3) == {}
    found = small_groups(analysis, 4)
    assert found == {"kk": "its 3 groups of 2 are too few for 4 ranks"}
    apart = tie(analysis.graph, analysis.measured, found)
    (heads,) = (c for c in candidates(apart, 4) if c.atom.size.first == 6)
    assert heads.weights == ("wq", "wo")
    choice = Choice((heads,), Layout(frozenset([heads.atom]), 4), 0.0, ())
    sharding = Sharding(apart, Mesh(tp=4), choice)
    assert_same(written(sharding, tmp_path), case, reference(case))


def test_two_axes_of_one_weight_exclude_each_other() -> None:
    analysis = analyse(load(graphs.MLP.model))
    found = candidates(analysis, 2)
    number = {candidate.weights: k for k, candidate in enumerate(found)}
    assert number["w1",] in conflicts(analysis, [c.atom for c in found])[number["w1", "b1", "w2"]]


def test_all_ranks_write_the_same_collectives_in_the_same_order() -> None:
    for case in graphs.CASES.values():
        sharding = plan(load(case.model), Mesh(tp=3))
        orders = {
            tuple((n.op_type, n.name) for n in part.nodes if n.domain == "rankwise")
            for part in sharding.parts
        }
        assert len(orders) == 1


def test_half_precision_parts_are_summed_in_float32(tmp_path: Path) -> None:
    case = _half(graphs.CNN)
    models = written(plan(load(case.model), Mesh(tp=3)), tmp_path)
    (want,) = reference(case)
    for (got,) in lockstep.run(models, case.feeds):
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)
    reduced = {node.input[0] for node in models[0].graph.node if node.op_type == "AllReduce"}
    casts = {node.output[0] for node in models[0].graph.node if node.op_type == "Cast"}
    makers = [node for node in models[0].graph.node if node.output[0] in reduced]
    assert makers
    assert all(set(node.input) <= casts for node in makers)


def _half(case: graphs.Case) -> graphs.Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return graphs.Case(model, {k: v.astype(np.float16) for k, v in case.feeds.items()})


def _saved(case: graphs.Case, directory: Path) -> Path:
    path = directory / "model.onnx"
    onnx.save(case.model, path)
    return path


def test_a_directory_holds_a_model_a_rank_and_a_manifest(tmp_path: Path) -> None:
    done = []
    manifest = shard(
        _saved(graphs.CNN, tmp_path),
        tmp_path / "out",
        "tp=2",
        progress=lambda a, b: done.append((a, b)),
    )
    assert Manifest.read(tmp_path / "out") == manifest
    assert manifest.mesh == {"tp": 2}
    assert manifest.world_size == 2
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"rank0.onnx", "rank1.onnx", "manifest.json"}
    assert done[-1][0] == done[-1][1] == sum(entry.weight_bytes for entry in manifest.ranks)


def test_weight_bytes_are_those_of_the_initializers(tmp_path: Path) -> None:
    manifest = shard(_saved(graphs.GROUPED_QUERIES, tmp_path), tmp_path / "out", "tp=3")
    for entry in manifest.ranks:
        model = onnx.load(tmp_path / "out" / entry.model)
        arrays = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
        assert entry.weight_bytes == sum(array.nbytes for array in arrays)


def test_spmd_keeps_the_whole_model_and_counts_what_a_rank_will_hold(tmp_path: Path) -> None:
    source = _saved(graphs.MLP, tmp_path)
    spmd = shard(source, tmp_path / "spmd", "tp=2", representation="spmd")
    per_rank = shard(source, tmp_path / "ranks", "tp=2")
    assert [e.weight_bytes for e in spmd.ranks] == [e.weight_bytes for e in per_rank.ranks]
    (path,) = (tmp_path / "spmd").glob("*.onnx")
    assert_same([onnx.load(path)], graphs.MLP, reference(graphs.MLP))


def test_a_rank_alone_writes_what_the_directory_has(tmp_path: Path) -> None:
    source = _saved(graphs.PACKED_QKV, tmp_path)
    shard(source, tmp_path / "out", "tp=2")
    (tmp_path / "one").mkdir()
    path = shard_rank(source, "tp=2", 1, tmp_path / "one")
    assert onnx.load(path) == onnx.load(tmp_path / "out" / "rank1.onnx")


def test_a_sharding_replaces_an_earlier_one_but_nothing_else(tmp_path: Path) -> None:
    source, place = _saved(graphs.MLP, tmp_path), tmp_path / "out"
    shard(source, place, "tp=4")
    shard(source, place, "tp=2")
    assert {path.name for path in place.glob("*.onnx")} == {"rank0.onnx", "rank1.onnx"}
    (place / "manifest.json").unlink()
    with pytest.raises(ModelError, match="name another directory"):
        shard(source, place, "tp=2")


def test_a_sharding_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = _saved(graphs.CNN, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        shard(source, tmp_path / "out", "tp=2", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_graph_without_weights_is_refused() -> None:
    model = graphs.build("(float[b,4] x) => (float[b,4] y) { y = Relu(x) }")
    with pytest.raises(NothingToShard, match="no weights"):
        plan(load(model), Mesh(tp=2))


def test_a_graph_of_operators_that_run_whole_is_refused_and_they_are_named() -> None:
    model = graphs.build(
        "(float[b,4] x) => (int64[2,n] y) { z = Add(x, w) \n y = NonZero(z) }", w=(1,)
    )
    with pytest.raises(NothingToShard, match=r"NonZero \(the size of its output depends on data"):
        plan(load(model), Mesh(tp=2))


def test_a_manifest_that_disagrees_with_itself_is_refused(tmp_path: Path) -> None:
    shard(_saved(graphs.MLP, tmp_path), tmp_path / "out", "tp=2")
    path = tmp_path / "out" / "manifest.json"
    fields = json.loads(path.read_text())
    for change in ({"world_size": 3}, {"format": 9}, {"ranks": 4}, {"representation": "other"}):
        path.write_text(json.dumps(fields | change))
        with pytest.raises(ModelError):
            Manifest.read(tmp_path / "out")
