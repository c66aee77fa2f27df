"""Files that other systems' tools have written, and onnxruntime's own tests of its collectives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from sessions import Array, operand, run

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.runtime.cli import main

POLYGRAPHY = Path(__file__).parent / "data" / "polygraphy"
"""Two models, and what `polygraphy multi-device shard --one-shot` (0.53.6) makes of them: of
attention with `--parallelism CP --nb-rank 2 --k-idx 1 --i-rank 2 --o-rank 2 --kv-rank 2`, of mlp
with `--parallelism TP --nb-rank 3`. Nodes are not sorted, an output has another name, and types
have no shapes."""


def whole(name: str, x: Array) -> Array:
    session = onnxruntime.InferenceSession(POLYGRAPHY / name)
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


@pytest.mark.parametrize("length", [2, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_attention_cut_by_polygraphy_along_the_sequence(size: int, length: int) -> None:
    made = onnx.load(POLYGRAPHY / "attention_cp.onnx")
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(made)
    for node in made.graph.node:
        for entry in node.attribute:
            if entry.name == "nb_rank":
                entry.i = size
    x = operand(0, length, 4)
    for (y,) in run(size, made, lambda rank: {"x": x}):
        np.testing.assert_allclose(y, whole("attention.onnx", x), rtol=1e-4, atol=1e-5)


def test_an_mlp_cut_by_polygraphy_into_a_file_for_each_rank() -> None:
    x = operand(0, 5, 4)

    def on_rank(comm: Communicator) -> Any:
        path = POLYGRAPHY / f"mlp_tp3_rank{comm.rank}.onnx"
        with rankwise.InferenceSession(path, comm=comm) as session:
            return session.run(["out"], {"x": x})[0]

    for y in local.run(3, on_rank):
        np.testing.assert_allclose(y, whole("mlp.onnx", x), rtol=1e-4, atol=1e-5)


def test_files_of_polygraphy_for_another_number_of_ranks_are_refused() -> None:
    made = onnx.load(POLYGRAPHY / "attention_cp.onnx")
    with pytest.raises(ValueError, match=r"rank 2 is in none of the groups \[0, 1\]"):
        run(3, made)


def test_what_polygraphy_writes_is_lowered_and_not_sharded_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, parts = str(POLYGRAPHY / "attention_cp.onnx"), str(tmp_path / "parts")
    lower = ["lower", source, "-o", parts, "--collective", "AllGather=ring", "-n", "2"]
    assert main(lower) == 0
    x = operand(0, 5, 4)

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(parts, comm=comm, functions="literal") as session:
            return session.run(None, {"x": x})[0]

    for y in local.run(2, on_rank):
        np.testing.assert_allclose(y, whole("attention.onnx", x), rtol=1e-4, atol=1e-5)
    assert main(["shard", source, "-o", str(tmp_path / "again"), "--mesh", "tp=2"]) == 2
    error = capsys.readouterr().err
    assert "expected a graph of one process, but DistCollective 'shard_1' communicates" in error
    assert not (tmp_path / "again").exists()


# What follows is onnxruntime/test/python/onnxruntime_test_collective.py, with a session of ours.

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def collective(
    op: str,
    shape: tuple[int, ...],
    made: tuple[int, ...],
    kind: int = FLOAT,
    inner: int = FLOAT,
    **attributes: Any,
) -> onnx.ModelProto:
    """One collective, between casts where it works on another element type."""
    ends = ("X", "Y") if kind == inner else ("X_casted", "Y_casted")
    nodes = [helper.make_node(op, [ends[0]], [ends[1]], domain="com.microsoft", **attributes)]
    if kind != inner:
        nodes.insert(0, helper.make_node("Cast", ["X"], [ends[0]], to=inner))
        nodes.append(helper.make_node("Cast", [ends[1]], ["Y"], to=kind))
    return with_opsets(
        helper.make_graph(
            nodes,
            "",
            [helper.make_tensor_value_info("X", kind, shape)],
            [helper.make_tensor_value_info("Y", kind, made)],
        )
    )


def with_opsets(graph: onnx.GraphProto) -> onnx.ModelProto:
    opsets = [helper.make_operatorsetid("", 18), helper.make_operatorsetid(".com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def each(size: int, made: onnx.ModelProto, x: Callable[[int], Array]) -> list[Array]:
    return [y for (y,) in run(size, made, lambda rank: {"X": x(rank)})]


@pytest.mark.parametrize("size", [2, 4])
def test_all_reduce(size: int) -> None:
    ones = np.ones((128, 128), np.float32)
    for y in each(size, collective("AllReduce", (128, 128), (128, 128)), lambda rank: ones):
        np.testing.assert_allclose(y, size * ones)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_all_gather(size: int, axis: int) -> None:
    ones = np.ones((128, 128), np.float32)
    shape = [128, 128]
    shape[axis] *= size
    made = collective("AllGather", (128, 128), tuple(shape), group_size=size, axis=axis)
    expected = np.concatenate([ones * rank for rank in range(size)], axis)
    for y in each(size, made, lambda rank: ones * rank):
        np.testing.assert_allclose(y, expected)


def test_all_gather_bool() -> None:
    made = collective("AllGather", (4,), (16,), INT64, INT64, group_size=4, axis=0)
    x = np.array([True, True, False, False]).astype(np.int64)
    for y in each(4, made, lambda rank: x):
        np.testing.assert_array_equal(y, [*x, *x, *x, *x])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("dtype", "kind", "inner"),
    [(np.float32, FLOAT, FLOAT), (np.int64, INT64, INT64), (np.int64, INT64, BOOL)],
)
def test_all_to_all(size: int, dtype: Any, kind: int, inner: int) -> None:
    made = collective("AllToAll", (8, 8), (8, 8), kind, inner, group_size=size)
    rows = np.repeat(np.arange(size), 8 // size)
    expected = np.ones((8, 8), dtype) * (np.minimum(rows, 1) if inner == BOOL else rows)[:, None]
    for y in each(size, made, lambda rank: np.ones((8, 8), dtype) * rank):
        np.testing.assert_allclose(y, expected)


def test_all_to_all_bool() -> None:
    def of_rank(rank: int) -> onnx.ModelProto:
        value = helper.make_tensor("condition", BOOL, (4,), [rank == 0] * 4)
        nodes = [
            helper.make_node("Constant", [], ["X"], value=value),
            helper.make_node("AllToAll", ["X"], ["Y"], domain="com.microsoft", group_size=2),
        ]
        result = helper.make_tensor_value_info("Y", BOOL, (4,))
        return with_opsets(helper.make_graph(nodes, "", [], [result]))

    for (y,) in run(2, of_rank, lambda rank: {}):
        np.testing.assert_array_equal(y, [True, True, False, False])
