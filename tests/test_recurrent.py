"""Recurrent layers cut by hidden unit, against onnxruntime on the whole ones."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import ranks
from case import Case
from comparison import assert_same
from recurrent_graphs import BOTH, FORMS, HIDDEN, STEPS, layer, packed, stack

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.check import check
from rankwise.models.errors import HintError
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.plan import build_plan
from rankwise.models.sharding import describe, plan, shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.axes import Axis
from rankwise.models.sharding.hints import to_hints
from rankwise.models.sharding.search import Terms
from rankwise.models.sharding.write import Sharding

SIZES = (2, 3, 4)


def units(model: onnx.ModelProto, size: int) -> tuple[Any, list[Axis]]:
    """Return the analysis of a model of one layer, and the axis of its hidden units."""
    analysis = analyse(load(model))
    (op,) = {node.op_type for node in model.graph.node} & {"GRU", "LSTM", "RNN"}
    found = [a for a in ranks.passing(analysis, size, op) if a.size.first == HIDDEN]
    return analysis, found


def cut(case: Case, size: int) -> Sharding:
    analysis, (found,) = units(case.model, size)
    sharding = ranks.cut_along(analysis, found, size)
    assert sharding.collectives["AllGather"] >= 1
    return sharding


@pytest.mark.parametrize(("name", "size"), [(name, SIZES[k % 3]) for k, name in enumerate(FORMS)])
def test_hidden_units_in_parts_give_what_the_layer_gives(
    name: str, size: int, tmp_path: Path
) -> None:
    case = FORMS[name]
    expected = ranks.whole(case.model, case.feeds)
    for got in ranks.run(cut(case, size), case.feeds, tmp_path):
        assert_same(got, expected)


@pytest.mark.parametrize("op", ("LSTM", "GRU"))
def test_sequences_that_come_first_are_those_that_come_second(op: str, tmp_path: Path) -> None:
    """onnxruntime takes the first form alone."""
    asked = "bnhc" if op == "LSTM" else "bnh"
    first, second = layer(op, asked, **BOTH), layer(op, asked, **BOTH, layout=1)
    weights = {tensor.name: tensor for tensor in first.model.graph.initializer}
    for tensor in second.model.graph.initializer:
        tensor.CopyFrom(weights[tensor.name])
    feeds = {k: v if k == "n" else v.swapaxes(0, 1).copy() for k, v in first.feeds.items()}
    y, *states = ranks.whole(first.model, first.feeds)
    expected = [y.transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in states)]
    for got in ranks.run(cut(second, 3), feeds, tmp_path):
        assert_same(got, expected)


def test_gates_that_a_graph_brings_into_order_are_cut_through(tmp_path: Path) -> None:
    case = packed()
    sharding = cut(case, 3)
    held = {name.removesuffix("/local") for name in sharding.parts[0].held}
    assert {"w_packed", "r_packed", "b_packed"} <= held
    assert sharding.choice.layout.fraction(sharding.analysis.tensors["r_packed"].axes[0], 0) < 0.5
    for got in ranks.run(sharding, case.feeds, tmp_path):
        assert_same(got, ranks.whole(case.model, case.feeds))


@pytest.mark.parametrize("mesh", ("tp=1", "tp=2", "tp=3", "tp=4", "tp=2,dp=2", "tp=2,pp=2"))
def test_layers_upon_layers_run_on_a_mesh(mesh: str, tmp_path: Path) -> None:
    model, wanted = stack(HIDDEN), Mesh.parse(mesh)
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 3, HIDDEN)).astype(np.float32)}
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    hints = {} if wanted.tp == 1 else {"r0": {"dim": 1}, "r1": {"dim": 1}}
    shard(path, tmp_path / "parts", mesh, hints=hints)
    plans = [build_plan(onnx.load(part)) for part in sorted((tmp_path / "parts").glob("*.onnx"))]
    assert check(plans, [wanted] * wanted.size).findings == ()
    (expected,) = ranks.whole(model, feeds)
    for got in local.run(wanted.size, partial(_run, tmp_path / "parts", feeds), 60):
        assert_same(got, [expected])


def _run(path: Path, feeds: dict[str, Any], comm: Communicator) -> list[Any]:
    with InferenceSession(path, ranks.quiet(), comm=comm) as session:
        return list(session.run(None, feeds))


@pytest.mark.parametrize(("name", "count"), (("LSTM", STEPS + 1), ("GRU", 2 * STEPS)))
def test_each_step_is_a_collective_that_is_counted(name: str, count: int, tmp_path: Path) -> None:
    case = FORMS[name]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = {"s": STEPS, "b": 4}.get(dim.dim_param, dim.dim_value)
    sharding = cut(Case(model, case.feeds), 2)
    assert len(sharding.parts[0].moved) == count
    ranks.write(sharding, tmp_path)
    assert local.run(2, partial(_calls, tmp_path, case.feeds), 60) == [count] * 2


def _calls(folder: Path, feeds: dict[str, Any], comm: Communicator) -> int:
    with InferenceSession(folder / f"rank{comm.rank}.onnx", comm=comm) as session:
        session.run(None, feeds)
        return session.trace.operators["AllGather"].count


def test_small_layers_stay_whole_and_large_ones_are_cut() -> None:
    cuts = {hidden: plan(load(stack(hidden, layers=1)), "tp=2") for hidden in (64, 2048)}
    assert [k for k, s in cuts.items() if any(c.is_stepwise for c in s.choice.chosen)] == [2048]
    assert cuts[64].choice.chosen and cuts[64].choice.heaviest > 0.9
    assert cuts[2048].choice.heaviest < 0.51


def test_a_limit_of_memory_or_a_hint_cuts_a_small_layer() -> None:
    graph = load(stack(64))
    limited = plan(graph, "tp=2", Terms(memory=int(0.55 * graph.weight_bytes)))
    assert {name for c in limited.choice.chosen for name in c.weights} >= {"w0", "r0", "w1", "r1"}
    hinted = plan(graph, "tp=2", Terms(hints=to_hints({"r1": {"dim": 1}})))
    assert [c.weights for c in hinted.choice.chosen if c.is_stepwise] == [("w1", "r1")]
    with pytest.raises(HintError, match=r"cannot cut dim 2 of 'r1': LSTM 'layer1' needs it whole"):
        plan(graph, "tp=2", Terms(hints=to_hints({"r1": {"dim": 2}})))


def test_a_layer_is_cut_where_nothing_else_could_be() -> None:
    sharding = plan(load(FORMS["GRU"].model), "tp=3")
    assert [c.weights for c in sharding.choice.chosen] == [("w", "r", "b")]


def test_a_layer_that_goes_along_the_first_dim_is_priced_by_its_steps() -> None:
    for case in (layer("LSTM"), layer("LSTM", layout=1)):
        (found,) = plan(load(case.model), "tp=2").choice.considered
        assert len(found.moved) == 256 + 1
        assert {each.nbytes for each in found.moved} == {4 * HIDDEN}


@pytest.mark.parametrize(
    ("case", "why"),
    (
        (layer("RNN", activations=["Cosine"]), "activation 'Cosine' is not known"),
        (layer("LSTM", activations=["Tanh"]), "it has 1 activations"),
        (layer("GRU", opset=9), "before opset 10 a layer is not written out step by step"),
    ),
)  # fmt: skip
def test_what_cannot_be_written_out_stays_whole_and_says_why(case: Case, why: str) -> None:
    assert units(case.model, 2)[1] == []
    (row,) = describe(case.model.SerializeToString()).operators
    assert row.whole == {f"hidden units stay together: {why}; the batch passes": 1}


def test_annotations_leave_a_layer_whole(tmp_path: Path) -> None:
    model, path = stack(HIDDEN, op="RNN"), tmp_path / "model.onnx"
    onnx.save(model, path)
    hints = {"r0": {"dim": 1}, "head": {"dim": 1}}
    shard(path, tmp_path / "parts", "tp=2", hints=hints, representation="annotated")
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 3, HIDDEN)).astype(np.float32)}
    for got in local.run(2, partial(_run, tmp_path / "parts", feeds), 60):
        assert_same(got, ranks.whole(model, feeds))


PROGRAM = """
import numpy as np
import onnxruntime
from mpi4py import MPI
import rankwise

feeds = dict(np.load("feeds.npz"))
world = MPI.COMM_WORLD
with rankwise.InferenceSession("model.onnx", comm=world) as session:
    made = session.run(None, feeds)
    assert world.size == 1 or session.trace.operators["AllGather"].count == 6
whole = onnxruntime.InferenceSession("model.onnx")
for got, wanted in zip(made, whole.run(None, feeds), strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
"""


@pytest.mark.mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", (1, 3))
def test_a_layer_runs_under_mpi(
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = FORMS["LSTM of every input, both ways"]
    monkeypatch.chdir(tmp_path)
    onnx.save(case.model, "model.onnx")
    arrays: dict[str, Any] = case.feeds
    np.savez("feeds.npz", **arrays)
    done = mpirun(count, PROGRAM)
    assert done.returncode == 0, done.stderr
