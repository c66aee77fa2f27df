"""Parts of graphs in old opsets, of which onnxruntime asks more than of recent ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import ranks
from comparison import assert_same

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import shardable

Graph = tuple[str, dict[str, Any]]

GEMM = (
    "(float[b,8] x) => (float[b,6] y) { h = MatMul(x, w1) \n y = Gemm(h, w2, b2) }",
    {"w1": (8, 12), "w2": (12, 6), "b2": (6,)},
)
TABLE = (
    "(int64[2,n] x) => (float[2,n,4] y) { e = Gather(table, x) \n y = MatMul(e, w) }",
    {"table": (10, 8), "w": (8, 4)},
)
SHAPE = (
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

GRAPHS: dict[str, tuple[Graph, tuple[int, ...]]] = {
    "Gemm": (GEMM, (8, 10, 18)),
    "table": (TABLE, (8, 10, 18)),
    "shape": (SHAPE, (8, 10, 18)),
    "narrow slice": (NARROW_SLICE, (10, 18)),
    "table of bools": (BOOL_TABLE, (10, 18)),
}
"""Graphs, and opsets that have their operators."""


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name, (_, found) in GRAPHS.items() for opset in found]
)
def test_onnxruntime_takes_every_part(name: str, opset: int, tmp_path: Path) -> None:
    (text, weights), _ = GRAPHS[name]
    model = graphs.build(text, opset, **weights)
    is_float = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    feeds = {"x": graphs.normal(3, 8) if is_float else np.array([[1, 9, 3], [0, 4, 2]])}
    expected, analysis = ranks.whole(model, feeds), analyse(load(model))
    atoms = [atom for atom, _, _ in shardable(analysis, 3)]
    assert atoms
    for k, atom in enumerate(atoms):
        folder = tmp_path / str(k)
        folder.mkdir()
        for got in ranks.run(ranks.cut_along(analysis, atom, 3), feeds, folder):
            assert_same(got, expected)
