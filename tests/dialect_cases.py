"""Collectives in other dialects, and what numpy makes of the operands of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import parser
from sessions import Array, operands

from rankwise import InferenceSession
from rankwise.collectives import Communicator

Expected = Callable[[Sequence[Array], int, int], Array]
"""Takes the operands of all ranks, the rank, and the root."""

SHAPE = (12, 2)
"""Up to four ranks divide the first dim."""


def model(node: str) -> onnx.ModelProto:
    """A graph whose h goes into the node; the domain of the node is not imported."""
    body = f"h = Neg(x) y = {node.replace('(x)', '(h)')}"
    ends = "(float[n,m] x) => (float[a,b] y)"
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {ends} {{ {body} }}')


def dist(operation: str, **more: Any) -> str:
    """Attributes of TensorRT's operator, as Polygraphy writes them."""
    values = {"root": -1, "group_size": 0, "nb_rank": "RANKS", "reduce_op": "none"} | more
    pairs = {"collective_operation": operation, **values}.items()
    listed = (f"{name}={_quoted(value)}" for name, value in pairs)
    return f"DistCollective<{', '.join(listed)}>(x)"


def _quoted(value: Any) -> str:
    is_text = isinstance(value, str) and value not in ("RANKS", "ROOT")
    return f'"{value}"' if is_text else str(value)


def part(array: Array, rank: int, size: int) -> Array:
    return np.array_split(array, size)[rank]


def reduced(ufunc: Any) -> Expected:
    return lambda xs, rank, root: ufunc(xs, 0)


def joined(dim: int) -> Expected:
    return lambda xs, rank, root: np.concatenate(xs, dim)


def of_root(xs: Sequence[Array], rank: int, root: int) -> Array:
    return xs[root]


def part_of_root(xs: Sequence[Array], rank: int, root: int) -> Array:
    return part(xs[root], rank, len(xs))


def part_of_sum(xs: Sequence[Array], rank: int, root: int) -> Array:
    return part(np.sum(xs, 0), rank, len(xs))


def exchanged(xs: Sequence[Array], rank: int, root: int) -> Array:
    return np.concatenate([part(x, rank, len(xs)) for x in xs])


def product_at_root(xs: Sequence[Array], rank: int, root: int) -> Array:
    return np.prod(xs, 0) if rank == root else xs[rank]


def joined_at_root(xs: Sequence[Array], rank: int, root: int) -> Array:
    return np.concatenate(xs) if rank == root else np.empty((0, SHAPE[1]), np.float32)


CASES: dict[str, tuple[str, Expected]] = {
    "ort AllReduce": ("com.microsoft.AllReduce(x)", reduced(np.sum)),
    "ort AllGather": ("com.microsoft.AllGather<axis=0, group_size=RANKS>(x)", joined(0)),
    "ort AllGather by default": ("com.microsoft.AllGather<group_size=RANKS>(x)", joined(1)),
    "ort AllToAll": ("com.microsoft.AllToAll<group_size=RANKS>(x)", exchanged),
    "ort-training NcclAllReduce": ("com.microsoft.NcclAllReduce(x)", reduced(np.sum)),
    "tensorrt all_reduce": (dist("all_reduce", reduce_op="max"), reduced(np.max)),
    "tensorrt mean": (dist("all_reduce", reduce_op="avg"), reduced(np.mean)),
    "tensorrt all_gather": (dist("all_gather"), joined(0)),
    "tensorrt broadcast": (dist("broadcast", root="ROOT"), of_root),
    "tensorrt reduce": (dist("reduce", root="ROOT", reduce_op="prod"), product_at_root),
    "tensorrt reduce_scatter": (dist("reduce_scatter", reduce_op="sum"), part_of_sum),
    "tensorrt all_to_all": (dist("all_to_all"), exchanged),
    "tensorrt gather": (dist("gather", root="ROOT"), joined_at_root),
    "tensorrt scatter": (dist("scatter", root="ROOT"), part_of_root),
    "working-group AllReduce": ('TensorAllReduce<reduction="min">(x)', reduced(np.min)),
    "working-group AllGather": ("rankwise.TensorAllGather<axis=1>(x)", joined(1)),
    "working-group Scatter": ("TensorScatter<root=ROOT>(x)", part_of_root),
    "working-group AllScatterReduce": ("TensorAllScatterReduce<axis=0>(x)", part_of_sum),
    "infinitensor AllReduceProd": ("AllReduceProd(x)", reduced(np.prod)),
    "infinitensor AllReduceAvg": ("AllReduceAvg(x)", reduced(np.mean)),
    "infinitensor ReduceSum": ("ReduceSum<communicator=0>(x)", reduced(np.sum)),
    "infinitensor Broadcast": ("Broadcast<root=ROOT>(x)", of_root),
}
"""The node, in which RANKS and ROOT stand for numbers, and what it gives."""


def check(comm: Communicator, name: str) -> None:
    """Run a case on the ranks of a communicator, and compare."""
    text, expected = CASES[name]
    root = comm.size - 1
    made = model(text.replace("RANKS", str(comm.size)).replace("ROOT", str(root)))
    xs = operands(comm.size, *SHAPE)
    with InferenceSession(made.SerializeToString(), comm=comm) as session:
        (y,) = session.run(None, {"x": xs[comm.rank]})
    wanted = expected([-x for x in xs], comm.rank, root)
    np.testing.assert_allclose(y, wanted, rtol=1e-6, err_msg=name)
