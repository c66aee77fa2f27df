"""Bodies of If, Loop and Scan on ranks, against onnxruntime on the whole graph."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control_graphs
import numpy as np
import onnxruntime
import pytest
import ranks
from comparison import assert_same

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.write import Sharding
from rankwise.runtime import arrays


def assert_same_on_ranks(sharding: Sharding, case: control_graphs.Runs, folder: Path) -> None:
    assert sharding.parts[0].collectives
    expected = [ranks.whole(case.model, feeds) for feeds in case.feeds]
    for made in ranks.run_each(sharding, case.feeds, folder):
        assert_same(made, expected)


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", control_graphs.CASES)
def test_what_is_chosen_gives_the_same_outputs(name: str, size: int, tmp_path: Path) -> None:
    case = control_graphs.CASES[name]
    assert_same_on_ranks(plan(load(case.model), Mesh(tp=size)), case, tmp_path)


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", control_graphs.CASES)
def test_every_axis_that_may_be_cut_gives_the_same_outputs(
    name: str, size: int, tmp_path: Path
) -> None:
    case = control_graphs.CASES[name]
    analysis = analyse(load(case.model))
    for atom in ranks.passing(analysis, size):
        assert_same_on_ranks(ranks.cut_along(analysis, atom, size), case, tmp_path)


def test_every_weight_of_a_merged_decoder_is_split() -> None:
    graph = load(control_graphs.MERGED.model)
    for size in (2, 3):
        parts = plan(graph, Mesh(tp=size)).parts
        assert max(part.weight_bytes for part in parts) < (1 / size + 0.05) * graph.weight_bytes
        assert len(parts[0].states) == 4


def test_caches_of_a_merged_decoder_stay_on_their_ranks(tmp_path: Path) -> None:
    case = control_graphs.MERGED
    names = [value.name for value in case.model.graph.output]
    fed = [name.replace("present", "past") for name in names[1:]]
    source = tmp_path / "model.onnx"
    source.write_bytes(case.model.SerializeToString())
    shard(source, tmp_path / "cut", "tp=3")

    def decode(run: Callable[..., list[Any]]) -> tuple[list[int], list[Any]]:
        first, _ = case.feeds[:2]
        feeds, tokens = first, list[int]()
        for _ in range(6):
            logits, *states = run(names, feeds)
            tokens += logits[:, -1].argmax(axis=1).tolist()
            feeds = dict(zip(fed, states, strict=True)) | {
                "ids": np.array(tokens[-2:]).reshape(2, 1),
                "use_cache": control_graphs.TRUE,
            }
        return tokens, states

    def work(comm: Communicator) -> tuple[list[int], list[Any]]:
        with InferenceSession(tmp_path / "cut", comm=comm) as session:
            return decode(session.run_local)

    expected, _ = decode(onnxruntime.InferenceSession(source).run)
    for tokens, states in local.run(3, work, timeout=60):
        assert tokens == expected
        assert [state.shape for state in states] == [(2, 2, 10, 4)] * 4


def test_what_runs_in_steps_is_counted_in_each() -> None:
    part = plan(load(control_graphs.LAYERS.model), Mesh(tp=2)).parts[0]
    assert part.collectives == {"AllReduce": 1}
    assert [each.op_type for each in part.moved] == ["AllReduce"] * 4


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_a_merged_decoder_runs_under_mpirun(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    case = control_graphs.MERGED
    (tmp_path / "model.onnx").write_bytes(case.model.SerializeToString())
    arrays.save(tmp_path / "in.npz", case.feeds[1])
    arguments = f"run {tmp_path}/model.onnx --inputs {tmp_path}/in.npz --compare"
    done = mpirun(3, ["-m", "rankwise", *arguments.split()])
    assert done.returncode == 0, done.stderr
    assert "compare  equal" in done.stdout
