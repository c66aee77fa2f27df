"""Bodies of If, Loop and Scan on ranks, against onnxruntime on the whole graph."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import control_graphs
import numpy as np
import onnxruntime
import pytest

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.axes import Axis
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.layout import Layout
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, write_part
from rankwise.runtime import arrays


def _work(folder: Path, case: control_graphs.Case, comm: Communicator) -> list[list[Any]]:
    with InferenceSession(folder / f"{comm.rank}.onnx", comm=comm) as session:
        return [session.run(None, feeds) for feeds in case.feeds]


def assert_same(sharding: Sharding, case: control_graphs.Case, folder: Path) -> None:
    for part in sharding.parts:
        write_part(sharding, part, folder / f"{part.rank}.onnx", lambda done, total: None)
    whole = onnxruntime.InferenceSession(case.model.SerializeToString())
    expected = [whole.run(None, feeds) for feeds in case.feeds]
    size = sharding.mesh.size
    for runs in local.run(size, partial(_work, folder, case), timeout=60):
        for outputs, wanted in zip(runs, expected, strict=True):
            for got, want in zip(outputs, wanted, strict=True):
                assert got.shape == want.shape
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", control_graphs.CASES)
def test_what_is_chosen_gives_the_same_outputs(name: str, size: int, tmp_path: Path) -> None:
    case = control_graphs.CASES[name]
    sharding = plan(load(case.model), Mesh(tp=size))
    assert sharding.parts[0].collectives
    assert_same(sharding, case, tmp_path)


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", control_graphs.CASES)
def test_every_axis_that_may_be_cut_gives_the_same_outputs(
    name: str, size: int, tmp_path: Path
) -> None:
    case = control_graphs.CASES[name]
    analysis = analyse(load(case.model))
    atoms: list[Axis] = [atom for atom, _, _ in shardable(analysis, size)]
    assert atoms
    for k, atom in enumerate(atoms):
        choice = Choice((), Layout(frozenset([atom]), size), 0.0, ())
        sharding = Sharding(analysis, Mesh(tp=size), choice)
        if sharding.parts[0].collectives:
            folder = tmp_path / str(k)
            folder.mkdir()
            assert_same(sharding, case, folder)


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
