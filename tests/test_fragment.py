"""What goes from one fragment to the next, where onnxruntime is wrong about its sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from case import Case, build, normal
from comparison import assert_same
from onnx import helper

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard
from rankwise.runtime.flow import agreed
from rankwise.runtime.fragment import parse_type

CACHED = Case(
    build(
        """(float[2,1,20] x, float[2,3,5,16] pk, float[2,3,5,16] pv, int32[2] m, int32[1] t) =>
           (y) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          total = Identity(t)
          h, kk, kv = .GroupQueryAttention <num_heads=6, kv_num_heads=3>
            (q, k, v, pk, pv, m, total)
          u = MatMul(h, wo)
          d = MatMul(u, wd)
          e = ReduceMean <keepdims=0> (d)
          y = Add(kk, e)
        }""",
        wq=(20, 96), wk=(20, 48), wv=(20, 48), wo=(96, 200), wd=(200, 9),
    ),
    {
        "x": normal(2, 1, 20),
        "pk": normal(2, 3, 5, 16),
        "pv": normal(2, 3, 5, 16),
        "m": np.array([5, 5], np.int32),
        "t": np.array([6], np.int32),
    },
)  # fmt: skip
"""A cache whose past is of a fixed length: onnxruntime tells that it does not grow."""

CUT = Case(
    build(
        """(float[b,s,6] x) => (y) <int64[1] first = {1}, int64[1] last = {1000}> {
          k = Cos(x)
          ks = ReduceSum <axes=[1], keepdims=1> (k)
          h = MatMul(ks, w)
          p = MatMul(h, v)
          o = Add(x, p)
          z = Slice(o, first, last, first)
          zp = Sin(z)
          zq = Softmax <axis=2> (zp)
          zr = ReduceSum <axes=[1], keepdims=1> (zq)
          xp = Add(x, zr)
          xq = Softmax <axis=2> (xp)
          xr = Cos(xq)
          xs = Softmax <axis=2> (xr)
          y = ReduceSum <axes=[1]> (xs)
        }""",
        opset=10,
        w=(6, 8), v=(8, 6),
    ),
    {"x": normal(2, 5, 6)},
)  # fmt: skip
"""onnxruntime tells that a slice is as long as what it is cut from, up to opset 10."""

SLOPES = Case(
    build(
        """(float[b,6] x) => (y) {
          h = MatMul(x, w)
          p = PRelu(h, slopes)
          q = MatMul(p, v)
          y = PRelu(q, others)
        }""",
        w=(6, 8), v=(8, 6), slopes=(3, 2, 1, 8), others=(6,),
    ),
    {"x": normal(2, 6)},
)  # fmt: skip
"""Slopes of more dims than what they scale, which onnxruntime takes."""


def _work(directory: Path, case: Case, comm: Communicator) -> list[Any]:
    with InferenceSession(directory, comm=comm) as session:
        return session.run(None, case.feeds)


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", ("CACHED", "CUT", "SLOPES"))
def test_sizes_that_onnxruntime_is_wrong_about_pass_no_border(
    name: str, size: int, tmp_path: Path
) -> None:
    case = globals()[name]
    source = tmp_path / "model.onnx"
    source.write_bytes(case.model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.enable_mem_reuse = False  # which would take the sizes for true
    expected = onnxruntime.InferenceSession(source, options).run(None, case.feeds)
    assert shard(source, tmp_path / "out", f"tp={size}").collectives
    for outputs in local.run(size, partial(_work, tmp_path / "out", case), timeout=60):
        assert_same(outputs, expected)


def test_a_part_tells_sizes_of_its_own_and_names_of_open_ones() -> None:
    part = plan(load(SLOPES.model), Mesh(tp=3)).parts[0]
    told = {
        name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for name, value in part.value_info.items()
    }
    assert told["h/local"] == ["b", 3]
    assert told["p/local"] == [3, 2, "b", 3]


def test_a_size_is_taken_where_model_and_onnxruntime_agree() -> None:
    told = parse_type("tensor(float)", ["b", "s", 8, 5, None])
    declared = helper.make_tensor_type_proto(1, ["b", "t", 8, None, 3])
    assert agreed(told, declared) == parse_type("tensor(float)", ["b", None, 8, None, None])
    assert agreed(told, helper.make_tensor_type_proto(1, [2])) == parse_type("tensor(float)")
    assert agreed(told, parse_type("tensor(float)")) == parse_type("tensor(float)")
    assert agreed(parse_type("tensor(float)"), declared) == declared
