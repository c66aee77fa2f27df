"""The rows of a replica or a rank, as nodes of its graph.

A dim is as long as what is fed, and is cut as numpy.array_split cuts. Where the batch is shorter
than the replicas are many, some have no rows: they compute the first one again, since not every
operator takes none, and give none. Ranks whose rows are cut within the graph have none then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from .relayout import Emitter
from .site import int64

ALL = 2**62
"""More rows than there are."""


class Rows(NamedTuple):
    """Names of vectors of one number: what a replica takes of an input."""

    start: str
    stop: str
    is_own: str | None
    """1, or 0 where the rows are another's; None for the first replica, whose own they are"""


def count_rows(emit: Emitter, name: str, dim: int, replica: int, replicas: int) -> Rows:
    """Add nodes that find a replica's rows of a tensor's dim."""
    counts = _counts(emit, name, dim, replicas)
    count = emit.node("Gather", [counts, emit.constant(int64(replica))], axis=0)
    if replica == 0:
        return Rows(emit.constant(int64(0)), count, None)
    before = emit.node("Gather", [counts, emit.constant(np.arange(replica))], axis=0)
    is_own = _is_positive(emit, count)
    start = emit.node("Mul", [emit.node("ReduceSum", [before], keepdims=1), is_own])
    borrowed = emit.node("Sub", [emit.constant(int64(1)), is_own])
    stop = emit.node("Add", [start, emit.node("Add", [count, borrowed])])
    return Rows(start, stop, is_own)


def _counts(emit: Emitter, name: str, dim: int, parts: int) -> str:
    """Add nodes that find how long the parts of a dim are."""
    length = emit.node("Gather", [emit.node("Shape", [name]), emit.constant(int64(dim))], axis=0)
    rounding = emit.constant(np.arange(parts)[::-1].copy())
    padded = emit.node("Add", [length, rounding])
    return emit.node("Div", [padded, emit.constant(int64(parts))])


def cut_rows(emit: Emitter, name: str, dim: int, rank: int, size: int) -> str:
    """Add nodes that cut a rank's rows out of a tensor, the same nodes for all ranks."""
    counts = _counts(emit, name, dim, size)
    bounds = [
        emit.node("ReduceSum", [emit.node("Mul", [counts, emit.constant(before)])], keepdims=1)
        for before in (int64(*(k < end for k in range(size))) for end in (rank, rank + 1))
    ]
    return emit.node("Slice", [name, *bounds, emit.constant(int64(dim))])


def _is_positive(emit: Emitter, name: str) -> str:
    as_bool = emit.node("Cast", [name], to=TensorProto.BOOL)
    return emit.node("Cast", [as_bool], to=TensorProto.INT64)


def take_rows(emit: Emitter, name: str, dim: int, rows: Rows) -> str:
    """Add nodes that cut a replica's rows out of an input."""
    return emit.node("Slice", [name, rows.start, rows.stop, emit.constant(int64(dim))])


def give_rows(emit: Emitter, name: str, dim: int, rows: Sequence[Rows]) -> str:
    """Add nodes that gather the rows of all replicas, without those that are another's.

    `rows` are those of the inputs. One that is broadcast has rows for the first replica alone.
    """
    flags = [each.is_own for each in rows if each.is_own is not None]
    if flags:
        flag = flags[0]
        if len(flags) > 1:
            flag = emit.node("ReduceMax", [emit.node("Concat", flags, axis=0)], keepdims=1)
        stop = emit.node("Mul", [flag, emit.constant(int64(ALL))])
        bounds = [emit.constant(int64(0)), stop, emit.constant(int64(dim))]
        name = emit.node("Slice", [name, *bounds])
    return emit.all_gather(name, dim)
