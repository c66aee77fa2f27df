"""States that stay on their ranks between runs, against onnxruntime on the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from comparison import assert_same

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard

STEPS = 5


def tokens() -> list[Any]:
    """What is fed, run by run: a prompt, then one token after the other."""
    rng = np.random.default_rng(3)
    sizes = [4, *[1] * STEPS]
    return [rng.standard_normal((2, size, 24)).astype(np.float32) for size in sizes]


def empty() -> Any:
    return np.zeros((2, 6, 0, 4), np.float32)


def expected() -> tuple[list[Any], Any]:
    """Return y run by run, and the last state, of onnxruntime."""
    session = onnxruntime.InferenceSession(graphs.CACHED.model.SerializeToString())
    state, answers = empty(), []
    for x in tokens():
        y, state = session.run(None, {"x": x, "past_kv": state})
        answers.append(y)
    return answers, state


@pytest.mark.parametrize("size", [2, 3])
def test_a_cache_that_stays_on_its_ranks_gives_the_same_answers(size: int, tmp_path: Path) -> None:
    onnx.save(graphs.CACHED.model, tmp_path / "model.onnx")
    shard(tmp_path / "model.onnx", tmp_path / "cut", f"tp={size}")
    answers, last = expected()

    def decode(comm: Communicator) -> tuple[list[Any], Any, set[str]]:
        with InferenceSession(tmp_path / "cut", comm=comm) as session:
            state, made, used = empty(), [], set[str]()
            for x in tokens():
                y, state = session.run_local(None, {"x": x, "past_kv": state})
                made.append(y)
                used |= set(session.trace.operators)
            return made, state, used

    results = local.run(size, decode)
    for made, _, used in results:
        assert used == {"AllReduce"}
        assert_same(made, answers)
    parts = [state for _, state, _ in results]
    assert [part.shape[1] for part in parts] == [len(p) for p in np.array_split(range(6), size)]
    assert_same(np.concatenate(parts, axis=1), last)


def test_a_run_takes_and_gives_the_whole_state_beside_local_ones(tmp_path: Path) -> None:
    onnx.save(graphs.CACHED.model, tmp_path / "model.onnx")
    answers, last = expected()

    def decode(comm: Communicator) -> tuple[list[Any], Any]:
        with InferenceSession(tmp_path / "model.onnx", comm=comm) as session:
            state, made = empty(), []
            for k, x in enumerate(tokens()):
                run = session.run if k % 2 else session.run_local
                if state.shape[1] < 6:
                    state = comm.allgather(state, dim=1)
                y, state = run(None, {"x": x, "past_kv": state})
                made.append(y)
            return made, state

    for made, state in local.run(2, decode):
        assert_same(made, answers)
        assert_same(state, last)


def test_a_state_of_another_size_is_refused(tmp_path: Path) -> None:
    onnx.save(graphs.CACHED.model, tmp_path / "model.onnx")

    def decode(comm: Communicator) -> None:
        with InferenceSession(tmp_path / "model.onnx", comm=comm) as session:
            feeds = {"x": tokens()[0], "past_kv": empty()[:, :5]}
            with pytest.raises(ValueError, match=r"past_kv.*\[2, 5, 0, 4\]"):
                session.run_local(None, feeds)

    local.run(2, decode)


def test_a_model_without_states_runs_as_ever(tmp_path: Path) -> None:
    onnx.save(graphs.MLP.model, tmp_path / "model.onnx")
    whole = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (want,) = whole.run(None, graphs.MLP.feeds)

    def answer(comm: Communicator) -> Any:
        with InferenceSession(tmp_path / "model.onnx", comm=comm) as session:
            return session.run_local(["y"], graphs.MLP.feeds)[0]

    for got in local.run(2, answer):
        assert_same(got, want)


def test_a_state_that_is_read_whole_is_no_local_one() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graphs.CACHED.model)
    model.graph.node.append(onnx.helper.make_node("CumSum", ["past_kv", "one"], ["sums"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(1), "one"))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("sums"))
    assert len(plan(load(graphs.CACHED.model), Mesh(tp=2)).parts[0].states) == 1
    assert plan(load(model), Mesh(tp=2)).parts[0].states == ()
