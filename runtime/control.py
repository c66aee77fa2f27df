"""Control flow with communication inside it: which bodies run, how often, and what they make.

Where a body holds a collective, the ranks of its groups go in together or not at all: they compare
conditions, trip counts and lengths first, in one small collective, and an error names the ranks
that differ. A body of Send and Recv alone is entered by whichever rank's condition says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from onnx import TypeProto, helper

from ..collectives import Communicator, MismatchError
from ..models.opset import tensor_type
from ..models.plan import Branch, Control, ParallelFor, Repeat, Scan
from .arrays import Array
from .groups import Group, Groups
from .trace import Span, Trace

FEW = 8
"""Ranks that are named of those that have the same."""


class Body(Protocol):
    """A body that sees what it captures."""

    @property
    def meets(self) -> Sequence[Group]:
        """The groups whose ranks run it together; none where any rank may run it alone."""
        ...

    @property
    def types(self) -> Sequence[TypeProto | None]:
        """The types of its outputs, where they are known."""
        ...

    def __call__(self, *given: Any) -> list[Any]:
        """Run it on its formal inputs; return its outputs."""
        ...


def branch(step: Branch, bodies: Sequence[Body], given: Sequence[Any], *_: object) -> list[Any]:
    """Run one of two bodies."""
    then, other = bodies
    is_true = _truth(given[0])
    _agree(bodies, "condition", is_true)
    return then() if is_true else other()


def repeat(step: Repeat, bodies: Sequence[Body], given: Sequence[Any], *_: object) -> list[Any]:
    """Run a body until its trip count is reached or its condition is false."""
    (body,) = bodies
    trips = None if given[0] is None else max(0, int(np.asarray(given[0]).item()))
    goes_on = given[1] is None or _truth(given[1])
    _agree(bodies, "trip count", trips if goes_on else 0)
    carried = list(given[2 : 2 + step.carried])
    rows = list[list[Any]]()
    while goes_on and (trips is None or len(rows) < trips):
        condition, *made = body(np.array(len(rows)), np.array(True), *carried)
        carried, row = made[: step.carried], made[step.carried :]
        rows.append(row)
        goes_on = _truth(condition)
        if step.stops and len(rows) != trips:
            _agree(bodies, f"condition after iteration {len(rows) - 1}", goes_on)
    stacked = zip(*rows, strict=True) if rows else [()] * (len(body.types) - 1 - step.carried)
    types = body.types[1 + step.carried :]
    return carried + [_stacked(column, kind) for column, kind in zip(stacked, types, strict=True)]


def scan(step: Scan, bodies: Sequence[Body], given: Sequence[Any], *_: object) -> list[Any]:
    """Walk along tensors, and run a body on every element."""
    (body,) = bodies
    states = list(given[: step.states])
    walked = given[step.states : step.states + len(step.input_dims)]
    lengths = [x.shape[dim] for x, dim in zip(walked, step.input_dims, strict=True)]
    if len(set(lengths)) > 1:
        raise ValueError(f"expected tensors of one length to scan, got {lengths}")
    _agree(bodies, "length to scan", lengths[0])
    rows = list[list[Any]]()
    for k in range(lengths[0]):
        ways = zip(walked, step.input_dims, step.input_reversed, strict=True)
        elements = [_element(x, dim, lengths[0] - 1 - k if back else k) for x, dim, back in ways]
        made = body(*states, *elements)
        states, row = made[: step.states], made[step.states :]
        rows.append(row)
    types = body.types[step.states :]
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    turned = [
        column[::-1] if back else column
        for column, back in zip(columns, step.output_reversed, strict=True)
    ]
    return states + list(map(_stacked, turned, types, step.output_dims))


def parallel_for(
    step: ParallelFor, bodies: Sequence[Body], given: Sequence[Any], groups: Groups, trace: Trace
) -> list[Any]:
    """Run a body for the ids of this rank, and share what the ids have made."""
    (body,), group = bodies, groups.group(step)
    comm, count = group.comm, int(np.asarray(given[0]).item())
    _compare(group, "count", count)
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count}")
    if count != comm.size and step.body.is_effect:
        raise ValueError(
            f"expected one id for each of {comm.size} ranks, since the body communicates, "
            f"got a count of {count}"
        )
    others = given[1 : len(step.body.inputs)]
    ids = np.array_split(np.arange(count), comm.size)[comm.rank]
    rows = [body(np.array(k), *others) for k in ids]
    columns = zip(*rows, strict=True) if rows else [()] * len(step.outputs)
    return _shared(step, group, columns, count, trace)


CONTROL: Mapping[type[Control], Callable[..., list[Any]]] = {
    Branch: branch, Repeat: repeat, Scan: scan, ParallelFor: parallel_for,
}  # fmt: skip


def _shared(
    step: ParallelFor, group: Group, columns: Iterable[Sequence[Array]], count: int, trace: Trace
) -> list[Array]:
    """Give every rank the results, and count that as the collective that it is."""
    op, share = SHARES[step.returns]
    start, before = time.perf_counter(), group.comm.bytes_sent
    made = [share(group.comm, column, count, step.dim) for column in columns]
    end, sent = time.perf_counter(), group.comm.bytes_sent - before
    trace.communicated(op, end - start, sent)
    if trace.spans is not None:
        size = sum(array.nbytes for array in made)
        span = Span("communication", step.label, start, end, op, size, sent, group.ranks)
        trace.spans.append(span)
    return made


def _first(comm: Communicator, column: Sequence[Array], count: int, dim: int) -> Array:
    """Give every rank what id 0 has made; rank 0 has it."""
    return comm.broadcast(column[0] if comm.rank == 0 else None, root=0)


def _concatenated(comm: Communicator, column: Sequence[Array], count: int, dim: int) -> Array:
    """Give every rank what all ids have made, along dim."""
    mine = np.concatenate([np.atleast_1d(x) for x in column], dim) if column else None
    if count < comm.size:  # some ranks have no id, and know neither type nor shape
        like = None if mine is None else mine.take([], dim)
        empty = comm.broadcast(like if comm.rank == 0 else None, root=0)
        mine = empty if mine is None else mine
    assert mine is not None
    return comm.allgather(mine, dim=dim)


SHARES: Mapping[str, tuple[str, Callable[..., Array]]] = {
    "first": ("Broadcast", _first), "concat": ("AllGather", _concatenated),
}  # fmt: skip


def _truth(value: Any) -> bool:
    return bool(np.asarray(value).item())


def _element(x: Array, dim: int, k: int) -> Array:
    """Copy an element: arrays are known by their ids, and a view of `x` would have one of its own.

    So it stays as it is while it is sent, and the caller may have it, whatever becomes of `x`.
    """
    return np.array(np.moveaxis(x, dim, 0)[k], order="C")


def _stacked(column: Sequence[Array], kind: TypeProto | None, dim: int = 0) -> Array:
    """Stack what iterations have made; of none, make what onnxruntime makes of none.

    It takes 0 for a dim that is not known.
    """
    if column:
        if len({x.shape for x in column}) > 1:
            shapes = ", ".join(str(x.shape) for x in column)
            raise ValueError(f"expected iterations to make one shape, got {shapes}")
        return np.stack(column, dim)
    elem_type, dims = tensor_type(kind)
    shape = [size if isinstance(size, int) else 0 for size in dims or ()]
    shape.insert(dim if dim >= 0 else len(shape) + 1 + dim, 0)
    return np.empty(shape, helper.tensor_dtype_to_np_dtype(elem_type or 1))


def _agree(bodies: Sequence[Body], what: str, value: int | None) -> None:
    """Raise MismatchError where ranks that meet in one of the bodies have different values."""
    for group in dict.fromkeys(group for body in bodies for group in body.meets):
        _compare(group, what, value)


def _compare(group: Group, what: str, value: int | None) -> None:
    comm, ranks = group
    if comm.size == 1:
        return
    mine = np.array([-1 if value is None else int(value)])
    found = comm.allgather(mine, counts=(1,) * comm.size)
    if (found == found[0]).all():
        return
    told = "; ".join(
        f"{_ranks([r for r, n in zip(ranks, found, strict=True) if n == number])} "
        f"{_said(int(number), value)}"
        for number in dict.fromkeys(found.tolist())
    )
    raise MismatchError(
        f"expected the same {what} on all ranks, since they communicate together inside: {told}"
    )


def _ranks(ranks: Sequence[int]) -> str:
    """Name ranks that have something, a few of them."""
    few = ", ".join(map(str, ranks[:FEW])) + (", ..." if len(ranks) > FEW else "")
    return f"rank {few} has" if len(ranks) == 1 else f"ranks {few} have"


def _said(number: int, like: int | None) -> str:
    if isinstance(like, bool):
        return str(bool(number)).lower()
    return "none" if number < 0 else str(number)
