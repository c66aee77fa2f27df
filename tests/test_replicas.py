"""Replicas: what they split, and that their answers together are those of one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import ranks
from comparison import assert_same
from graphs import CASES, Case, build, normal
from replicas import HELD, PASSING

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import MeshError
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.search import Terms
from rankwise.models.sharding.spread.batch import find_batch
from rankwise.models.sharding.spread.flow import Flow
from rankwise.models.sharding.write import Sharding


def rows(case: Case, name: str, count: int) -> dict[str, Any]:
    """Feed so many rows of random numbers, along the dim that is the batch."""
    batch = find_batch(analyse(load(case.model))).batch
    assert batch is not None
    x = case.feeds[name]
    return case.feeds | {name: np.resize(x, _with(x.shape, batch.inputs[name], count))}


def _with(shape: tuple[int, ...], dim: int, count: int) -> tuple[int, ...]:
    return (*shape[:dim], count, *shape[dim + 1 :])


@pytest.mark.parametrize("name", PASSING)
def test_a_batch_of_any_length_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    case = PASSING[name]
    is_fixed = name == "a product of fixed size"
    for size in (2, 3):
        sharding = plan(load(case.model), Mesh(dp=size))
        assert sharding.notes == ()
        for count in (5,) if is_fixed else (1, 2, 5):
            feeds = rows(case, "x", count)
            for got in ranks.run(sharding, feeds, tmp_path):
                assert_same(got, ranks.whole(case.model, feeds))


def test_rows_that_are_made_of_sizes_alone_are_gathered_on_every_stage(tmp_path: Path) -> None:
    case = PASSING["rows that are made alike"]
    sharding = plan(load(case.model), "pp=2,dp=2")
    for got in ranks.run(sharding, rows(case, "x", 5), tmp_path):
        assert_same(got, ranks.whole(case.model, rows(case, "x", 5)))


@pytest.mark.parametrize("name", HELD)
def test_a_batch_that_does_not_pass_is_not_split(name: str, tmp_path: Path) -> None:
    text, weights = HELD[name]
    model = build(text, **weights)
    assert isinstance(Flow(analyse(load(model)), {"x": 0}).outputs(), str)
    feeds = {"x": normal(4, 8)}
    for got in ranks.run(plan(load(model), Mesh(dp=3)), feeds, tmp_path):
        if "drawn" not in name:
            assert_same(got, ranks.whole(model, feeds))


def test_replicas_without_a_batch_are_idle_and_it_is_said(tmp_path: Path) -> None:
    case = CASES["grouped_queries"]
    sharding = plan(load(case.model), Mesh(dp=3, pp=2))
    (note,) = sharding.notes
    assert note.startswith("2 of 3 replicas are idle, since no batch was found: dim 0 of 'x'")
    idle = [part.weight_bytes for part in sharding.parts if sharding.mesh.place(part.rank).dp]
    assert idle == [0] * 4
    for got in ranks.run(sharding, case.feeds, tmp_path):
        assert_same(got, ranks.whole(case.model, case.feeds))


def test_the_dims_of_a_recurrence_are_found_unless_its_states_have_a_fixed_size() -> None:
    weights = {"w": (1, 16, 6), "r": (1, 16, 4), "h": (1, 3, 4)}
    node = "y = LSTM <hidden_size=4> (x, w, r{})"
    found, fixed = (
        find_batch(analyse(load(build(f"{head} {{ {node.format(state)} }}", **weights)))).batch
        for head, state in (
            ("(float[t,b,6] x) => (float[t,1,b,4] y)", ""),
            ("(float[7,3,6] x) => (float[7,1,3,4] y)", ",,,h"),
        )
    )
    assert found == ({"x": 1}, {"y": 2})
    assert fixed is None


def test_a_person_may_name_the_batch(tmp_path: Path) -> None:
    model = build("(float[b,8] x) => (float[b,8] y) { c = Clip(x, low) \n y = CumSum(c, one) }",
        low=np.float32(-1), one=np.int64(1))  # fmt: skip
    for asked in ("0", "x=0", "-2", "x=-2"):
        sharding = plan(load(model), Mesh(dp=2), Terms(batch_dim=asked))
        assert sharding.batch.batch == ({"x": 0}, {"y": 0})
    for got in ranks.run(sharding, {"x": normal(5, 8)}, tmp_path):
        assert_same(got, ranks.whole(model, {"x": normal(5, 8)}))


@pytest.mark.parametrize(
    ("asked", "message"),
    [("2", "'x' has dims 0 to 1"), ("z=0", "inputs among x"), ("x", "inputs among x"),
     ("x=one", "inputs among x"), ("--1", "inputs among x"), ("x=--1", "inputs among x"),
     ("", "inputs among x")],
)  # fmt: skip
def test_a_batch_that_no_input_has_is_refused(asked: str, message: str) -> None:
    with pytest.raises(MeshError, match=message):
        plan(load(CASES["mlp"].model), Mesh(dp=2), Terms(batch_dim=asked))


def test_a_batch_that_is_asked_of_a_graph_without_dims_is_refused() -> None:
    model = build("(float x) => (float[8] y) { y = Mul(x, w) }", w=(8,))
    with pytest.raises(MeshError, match="no input has any dims"):
        plan(load(model), Mesh(dp=2), Terms(batch_dim="0"))


def test_rows_that_are_not_the_slowest_of_a_dim_are_refused() -> None:
    model = build("(float[4,b] x) => (float[n] y) { y = Reshape(x, m1) }", m1=np.array([-1]))
    with pytest.raises(MeshError, match="'y' has the rows of the batch among others in dim 0"):
        plan(load(model), Mesh(dp=2), Terms(batch_dim="x=1"))


def test_idle_replicas_are_said_with_the_run(tmp_path: Path) -> None:
    onnx.save(CASES["mlp"].model, tmp_path / "model.onnx")

    def work(comm: Communicator) -> list[tuple[str, ...]]:
        with InferenceSession(tmp_path / "model.onnx", comm=comm, mesh={"dp": 4}) as session:
            notes = []
            for count in (1, 3, 4, 9):
                x = normal(count, 16)
                (y,) = session.run(None, {"x": x})
                np.testing.assert_allclose(y, ranks.whole(CASES["mlp"].model, {"x": x})[0], 1e-4)
                notes.append(session.notes)
            return notes

    for notes in local.run(4, work):
        assert notes[0] == ("3 of 4 replicas were idle, since the batch is of 1",)
        assert notes[1] == ("1 of 4 replicas were idle, since the batch is of 3",)
        assert notes[2:] == [(), ()]


def decoded(folder: Path, whole: Any, steps: int, comm: Communicator) -> list[Any]:
    """Return y step by step; the state stays where it is."""
    made, state = [], np.zeros((3, 6, 0, 4), np.float32)
    with InferenceSession(folder / f"rank{comm.rank}.onnx", comm=comm) as session:
        for x in whole[:steps]:
            y, state = session.run_local(None, {"x": x, "past_kv": state})
            made.append(y)
    return [*made, state.shape]


@pytest.mark.parametrize("mesh", ["dp=2", "pp=2", "pp=2,dp=2", "dp=2,tp=2", "dp=4"])
def test_a_state_stays_with_its_rows_and_its_stage(mesh: str, tmp_path: Path) -> None:
    model = CASES["cached"].model
    sharding: Sharding = plan(load(model), mesh)
    ranks.write(sharding, tmp_path)
    tokens = [normal(3, count, 24) for count in (4, 1, 1, 1, 1)]
    expected, state = [], np.zeros((3, 6, 0, 4), np.float32)
    for x in tokens:
        y, state = ranks.whole(model, {"x": x, "past_kv": state})
        expected.append(y)
    results = local.run(sharding.mesh.size, partial(decoded, tmp_path, tokens, 5))
    for *made, _ in results:
        for got, want in zip(made, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    held = sum(int(np.prod(shape)) for *_, shape in results)
    again = 1 if mesh == "dp=4" else 0  # a replica without rows of its own computes the first
    assert held == state.size * (3 + again) // 3


def test_the_rows_of_an_input_that_is_broadcast_are_kept(tmp_path: Path) -> None:
    model = build("(float[b,8] x, float[b,8] z) => (float[b,8] y) { y = Add(x, z) }")
    sharding = plan(load(model), Mesh(dp=2))
    for counts in ((1, 5), (5, 1)):
        feeds = {name: normal(n, 8) for name, n in zip("xz", counts, strict=True)}
        for got in ranks.run(sharding, feeds, tmp_path):
            assert_same(got, ranks.whole(model, feeds))
