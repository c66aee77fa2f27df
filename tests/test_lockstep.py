"""Ranks side by side: what differs between them is an error, as it would be under MPI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lockstep
import numpy as np
import onnx
import pytest
from case import build

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def rank(node: str, k: Any = 1, to: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    return build(
        f"(float[2,3] x) => (y) {{ h = Mul(x, k) \n c = Cast <to={to}> (h) \n y = {node} }}",
        k=np.float32(k),
    )


def test_collectives_give_what_numpy_gives() -> None:
    parts = [rank("rankwise.AllReduce(c)", k) for k in (1, 2, 4)]
    for (y,) in lockstep.run(parts, {"x": X}):
        np.testing.assert_array_equal(y, 7 * X)


def test_ranks_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for k in range(11):
        onnx.save(rank("rankwise.AllGather(c)", k), tmp_path / f"rank{k}.onnx")
    for (y,) in lockstep.run(lockstep.load(tmp_path), {"x": X}):
        np.testing.assert_array_equal(y, np.concatenate([k * X for k in range(11)]))


@pytest.mark.parametrize(
    "other",
    [
        rank("rankwise.AllReduce(c)", to=onnx.TensorProto.DOUBLE),
        rank('rankwise.AllReduce <op="max"> (c)'),
        rank("rankwise.AllGather(c)"),
        rank("rankwise.AllReduce(c)", np.ones((2, 2, 3))),
    ],
    ids=["dtype", "attribute", "operator", "shape"],
)
def test_ranks_that_do_not_call_alike_are_refused(other: onnx.ModelProto) -> None:
    with pytest.raises(AssertionError):
        lockstep.run([rank("rankwise.AllReduce(c)"), other], {"x": X})
