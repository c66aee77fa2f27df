"""One collective, as all ranks of its group call it: whether they agree, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..opset import DIMS, GROUP, OPS, result
from .events import Event, Shared, Value
from .findings import Finding
from .values import UNKNOWN, Dims, Tensor, dtype_name, may_equal

PLACE = (*GROUP, "dtype", "order", "effects")
"""Attributes that need not be the same: groups are compared as ranks, dtype with what comes, and a
rank numbers what it has."""


def compared(events: Sequence[Event]) -> Finding | None:
    """Return the first thing in which a rank differs from the first of the group."""
    first = events[0]
    for event in events[1:]:
        difference = _difference(first, event)
        if difference is not None:
            what, wanted, got = difference
            text = f"expected {what} {wanted}, as in {first}, got {got}"
            return event.finding("mismatch", text)
    return None


def _difference(first: Event, event: Event) -> tuple[str, object, object] | None:
    if event.op != first.op:
        return "op", first.op, event.op
    mine, others = _options(event), _options(first)
    for name in sorted(others.keys() | mine.keys()):
        if others.get(name) != mine.get(name):
            return name, repr(others.get(name)), repr(mine.get(name))
    if event.op == "ParallelFor":
        count, wanted = event.operand.number, first.operand.number
        return None if None in (count, wanted) or count == wanted else ("count", wanted, count)
    a, b = _operand(first), _operand(event)
    if a.dtype is not None and b.dtype is not None and a.dtype != b.dtype:
        return "dtype", dtype_name(a.dtype), dtype_name(b.dtype)
    if not may_equal(_compared_dims(first, a.shape), _compared_dims(event, b.shape)):
        return "shape", _shown(a.shape), _shown(b.shape)
    return None


def _options(event: Event) -> Mapping[str, Any]:
    """What a call is made with; dims are counted from the first where it is known how many."""
    options = {name: v for name, v in event.step.attributes.items() if name not in PLACE}
    if event.operand.shape is not None and event.op != "ParallelFor":
        rank = len(event.operand.shape) or 1
        options |= {name: options[name] % rank for name in options.keys() & DIMS}
    return options


def _operand(event: Event) -> Tensor:
    """The operand, or where root alone gives it what is expected of it."""
    root = event.step.attributes.get("root")
    if event.op in ("Broadcast", "Scatter") and event.place != root:
        return Tensor(event.step.attributes.get("dtype"))
    return event.operand


def _compared_dims(event: Event, shape: Dims | None) -> Dims | None:
    """The dims in which the operands of all ranks are the same."""
    if shape is None or event.op in ("Broadcast", "Scatter", "ParallelFor", "Barrier"):
        return None
    free = {"AllGather": "dim", "Gather": "dim", "AllToAll": "concat_dim"}.get(event.op)
    if free is None:
        return shape
    dims = list(shape or (1,))
    place = event.step.attributes[free]
    if -len(dims) <= place < len(dims):
        dims[place] = None
    return tuple(dims)


def _shown(shape: Dims | None) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape or ())}]"


def given(events: Sequence[Event], shared: Shared) -> list[Value]:
    """Return what each rank gets, in group order."""
    first = events[0]
    if any(event.op != first.op for event in events):
        return [shared.value(_alone(event)) for event in events]
    if first.op == "Broadcast":
        root = first.step.attributes["root"]
        value = events[root].value if 0 <= root < len(events) else None
        return [value or shared.value(UNKNOWN)] * len(events)
    if first.op in ("AllReduce", "AllGather", "ParallelFor"):
        # The same for all, bit by bit.
        return [shared.value(_result(events, first))] * len(events)
    return [shared.value(_result(events, event)) for event in events]


def _alone(event: Event) -> Tensor:
    """What a rank expects of its own call."""
    if event.op == "ParallelFor" or OPS[event.op].gives != "Y":
        return UNKNOWN
    operand = event.operand
    try:
        dtype, shape = result(event.op, event.step.attributes, operand.dtype, operand.shape)
    except ValueError:
        return UNKNOWN
    sizes = None if shape is None else tuple(d if isinstance(d, int) else None for d in shape)
    return Tensor(dtype, sizes)


def _result(events: Sequence[Event], event: Event) -> Tensor:
    made = _alone(event)
    size, place = len(events), event.place
    attributes = event.step.attributes
    operands = [e.operand for e in events]
    if event.op == "Scatter":
        whole = operands[attributes["root"]] if 0 <= attributes["root"] < size else UNKNOWN
        made = made._replace(shape=(1,) if whole.shape == () else whole.shape)
    if event.op in ("AllReduce", "Reduce") or made.shape is None:
        return made
    shape = list(made.shape)
    match event.op:
        case "AllGather":
            _set(shape, attributes["dim"], _sum(operands, attributes["dim"]))
        case "Gather":
            is_root = place == attributes["root"]
            _set(shape, attributes["dim"], _sum(operands, attributes["dim"]) if is_root else 0)
        case "ReduceScatter":
            _set(shape, attributes["dim"], _part(operands[place], attributes["dim"], place, size))
        case "Scatter":
            _set(shape, attributes["dim"], _part(whole, attributes["dim"], place, size))
        case "AllToAll":
            split, joined = attributes["split_dim"], attributes["concat_dim"]
            if split != joined:
                _set(shape, split, _part(operands[place], split, place, size))
                _set(shape, joined, _sum(operands, joined))
    return made._replace(shape=tuple(shape))


def _set(shape: list[int | None], dim: int, length: int | None) -> None:
    if -len(shape) <= dim < len(shape):
        shape[dim] = length


def _length(tensor: Tensor, dim: int) -> int | None:
    if tensor.shape is None:
        return None
    shape = tensor.shape or (1,)
    return shape[dim] if -len(shape) <= dim < len(shape) else None


def _sum(operands: Sequence[Tensor], dim: int) -> int | None:
    lengths = [_length(operand, dim) for operand in operands]
    return None if None in lengths else sum(n for n in lengths if n is not None)


def _part(operand: Tensor, dim: int, place: int, size: int) -> int | None:
    """The length of one part, cut as numpy.array_split does."""
    length = _length(operand, dim)
    return None if length is None else length // size + (place < length % size)
