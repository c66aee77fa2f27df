"""Operators of onnxruntime's own: shapes as in a run, and sharded graphs against whole ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import contrib_graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import Case

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.shapes import infer
from rankwise.models.sharding import plan
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.layout import Layout
from rankwise.models.sharding.search import Choice, shardable
from rankwise.models.sharding.write import Sharding, write_part

SIZES = (2, 3, 4)
CASES = contrib_graphs.CASES


def options() -> onnxruntime.SessionOptions:
    """One thread, and nodes as they are written."""
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads = 1
    found.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return found


def alone(model: bytes, case: Case) -> list[Any]:
    return list(onnxruntime.InferenceSession(model, options()).run(None, case.feeds))


def side_by_side(sharding: Sharding, case: Case, directory: Path) -> list[list[Any]]:
    """Return the outputs of every rank."""
    directory.mkdir(exist_ok=True)
    paths = [directory / f"rank{part.rank}.onnx" for part in sharding.parts]
    for part, path in zip(sharding.parts, paths, strict=True):
        write_part(sharding, part, path, lambda done, total: None)
    if not sharding.parts[0].collectives:  # a session would shard it once more
        return [alone(path, case) for path in paths]
    return local.run(len(paths), partial(answer, paths, case))


def answer(paths: list[Path], case: Case, comm: Communicator) -> list[Any]:
    with InferenceSession(paths[comm.rank], options(), comm=comm) as session:
        return session.run(None, case.feeds)


def assert_same(ranks: list[list[Any]], expected: list[Any]) -> None:
    for outputs in ranks:
        for got, want in zip(outputs, expected, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * (1 + np.abs(want).max()))


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_has_the_shape_that_it_has_in_a_run(name: str) -> None:
    case = CASES[name]
    graph = load(case.model)
    sizes = {
        dim.dim_param: case.feeds[value.name].shape[k]
        for value in graph.inputs
        for k, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.dim_param
    }
    found = infer(graph, sizes)
    names = [out for node in graph.nodes for out in node.output if out]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    for name, made in zip(names, alone(model.SerializeToString(), case), strict=True):
        assert found.shapes[name] == made.shape, name
        assert onnx.helper.tensor_dtype_to_np_dtype(found.types[name]) == made.dtype, name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_every_axis_that_may_be_cut_gives_the_same_outputs(
    name: str, size: int, tmp_path: Path
) -> None:
    case = CASES[name]
    expected, analysis = alone(case.model.SerializeToString(), case), analyse(load(case.model))
    assert all(np.isfinite(array).all() for array in expected)
    for k, (atom, _, _) in enumerate(shardable(analysis, size)):
        choice = Choice((), Layout(frozenset([atom]), size), 0.0, ())
        sharding = Sharding(analysis, Mesh(tp=size), choice)
        assert_same(side_by_side(sharding, case, tmp_path / str(k)), expected)


@pytest.mark.parametrize("name", CASES)
def test_no_operator_is_whole_for_want_of_a_rule(name: str) -> None:
    analysis = analyse(load(CASES[name].model))
    assert {site.node.op_type: site.obstacle for site in analysis.sites if site.obstacle} == {}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_what_is_chosen_gives_the_same_outputs(name: str, size: int, tmp_path: Path) -> None:
    case = CASES[name]
    sharding = plan(load(case.model), Mesh(tp=size))
    expected = alone(case.model.SerializeToString(), case)
    assert_same(side_by_side(sharding, case, tmp_path), expected)
