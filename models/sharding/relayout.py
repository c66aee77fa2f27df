"""Moving a tensor between its whole and its sharded form inside a graph.

A sharded atom may be the inner factor of a dim, as the heads are in [batch * heads, s, d]. Where
the dim's size is known, indices say it all. Where it is not, a Reshape gives the atom a dim of its
own for as long as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from .axes import Axis, Conflict, find, leaves
from .layout import Layout
from .site import Tensor, int64

MOVABLE = {
    TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.FLOAT,
    TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32,
    TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32,
    TensorProto.UINT64,
}  # fmt: skip
"""Element types that both onnxruntime's Gather and the collectives take: no strings, no float8."""


class Emitter(Protocol):
    """What nodes are added to."""

    def constant(self, array: npt.NDArray[Any]) -> str: ...

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str: ...

    def all_gather(self, name: str, dim: int) -> str: ...


class Place(NamedTuple):
    """Where in a tensor its sharded atoms are: which dim, and which of its factors."""

    dim: int
    axis: Axis
    factor: int
    """position among the axis' leaves"""

    @property
    def leaf(self) -> Axis:
        return find(leaves(self.axis)[self.factor])

    @property
    def outer(self) -> list[Axis]:
        return leaves(self.axis)[: self.factor]

    @property
    def inner(self) -> list[Axis]:
        return leaves(self.axis)[self.factor + 1 :]


def place(tensor: Tensor, layout: Layout) -> Place:
    """Find the sharded factor. Raises Conflict where no Reshape could lay it bare.

    Elements of a type that cannot be gathered have no place either.
    """
    if tensor.data_type not in MOVABLE:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise Conflict(f"{tensor.name}: elements of type {kind} cannot be moved")
    dims = [dim for dim, axis in enumerate(tensor.axes) if layout.holds(axis)]
    axis = tensor.axes[dims[0]]
    assert axis is not None
    axis = find(axis)
    factors = [k for k, leaf in enumerate(leaves(axis)) if layout.holds(leaf)]
    if len(dims) > 1 or (len(factors) > 1 and not axis.size.is_static):
        raise Conflict(f"{tensor.name}: {tensor.axes!r} is cut in two places")
    found = Place(dims[0], axis, factors[0])
    if not axis.size.is_static and found.outer:
        unknown = [
            not all(part.size.is_static for part in row) for row in (found.outer, found.inner)
        ]
        if all(unknown) or not found.leaf.size.is_static:
            raise Conflict(f"{tensor.name}: {axis!r} has unknown sizes on both sides of a shard")
    return found


def to_local(emit: Emitter, name: str, tensor: Tensor, layout: Layout, rank: int) -> str:
    """Add nodes that keep this rank's part of a whole tensor. Moves no bytes between ranks."""
    at = place(tensor, layout)
    if at.axis.size.is_static:
        return _keep(emit, name, layout, rank, at.axis, at.dim)

    def keep(bare: str, dim: int) -> str:
        return _keep(emit, bare, layout, rank, at.leaf, dim)

    return _with_leaf_bare(emit, name, tensor, at, at.leaf.size.first, keep)


def to_whole(emit: Emitter, name: str, tensor: Tensor, layout: Layout, rank: int) -> str:
    """Add nodes that gather a sharded tensor on every rank: one AllGather."""
    at = place(tensor, layout)
    if not at.outer and at.leaf.kind == "atom" and layout.covers(at.leaf):
        return emit.all_gather(name, at.dim)
    if at.axis.size.is_static:
        return _gather(emit, name, layout, at.axis, at.dim)

    def gather(bare: str, dim: int) -> str:
        return _gather(emit, bare, layout, at.leaf, dim)

    return _with_leaf_bare(emit, name, tensor, at, layout.local(at.leaf, rank).first, gather)


def _keep(emit: Emitter, name: str, layout: Layout, rank: int, axis: Axis, dim: int) -> str:
    kept = layout.indices(axis, rank)
    assert kept is not None
    return emit.node("Gather", [name, emit.constant(kept)], axis=dim)


def _gather(emit: Emitter, name: str, layout: Layout, axis: Axis, dim: int) -> str:
    """Gather the ranks' parts and bring them into order; what several ranks hold is taken once."""
    parts = [layout.indices(axis, rank) for rank in range(layout.size)]
    given = np.concatenate([part for part in parts if part is not None])
    _, order = np.unique(given, return_index=True)
    name = emit.all_gather(name, dim)
    if np.array_equal(order, np.arange(len(given))):
        return name
    return emit.node("Gather", [name, emit.constant(order.astype(np.int64))], axis=dim)


def _with_leaf_bare(
    emit: Emitter,
    name: str,
    tensor: Tensor,
    at: Place,
    length: int,
    change: Callable[[str, int], str],
) -> str:
    """Give the sharded factor, now `length` long, a dim of its own; change it; merge the dims."""
    outer, inner = _extent(at.outer), _extent(at.inner)
    bare = [*([outer] if outer != 1 else []), length, *([inner] if inner != 1 else [])]
    name = emit.node("Reshape", [name, _target(emit, name, tensor, at.dim, bare)])
    changed = change(name, at.dim + (outer != 1))
    merged = _target(emit, changed, tensor, at.dim, [-1], len(bare))
    return emit.node("Reshape", [changed, merged])


def _extent(row: list[Axis]) -> int:
    """Return the size of a row of factors, -1 where it is not known."""
    if not all(part.size.is_static for part in row):
        return -1
    return math.prod(part.size.first for part in row)


def _target(
    emit: Emitter, name: str, tensor: Tensor, dim: int, sizes: Sequence[int], width: int = 1
) -> str:
    """Return a Reshape target that puts `sizes` in the place of `width` dims from `dim` on."""
    before, after = tensor.shape[:dim], tensor.shape[dim + 1 :]
    if all(size.is_static for size in after):
        copied = [size.first if size.is_static else 0 for size in before]
        return emit.constant(int64(*copied, *sizes, *(size.first for size in after)))
    shape = emit.node("Shape", [name])
    count = tensor.rank + width - 1
    parts = [
        emit.node("Gather", [shape, emit.constant(np.arange(dim))], axis=0),
        emit.constant(int64(*sizes)),
        emit.node("Gather", [shape, emit.constant(np.arange(dim + width, count))], axis=0),
    ]
    return emit.node("Concat", parts, axis=0)
