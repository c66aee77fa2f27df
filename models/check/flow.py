"""Bodies that communicate: branches taken, loops followed, and what is assumed of the unknown.

Where only a run knows a condition or a trip count, a proof assumes it: true everywhere in one
pass, false everywhere in another. Each assumption is noted as a Decision, so that it can be told
whether all ranks that it concerns decide on the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from ..opset import OPS
from ..plan import Branch, Communicate, Control, ParallelFor, Plan, Repeat, Scan
from .events import Decision, Event, Events, Value
from .values import UNKNOWN, Tensor

if TYPE_CHECKING:
    from .program import Program, Scope

ASSUMED_ITERATIONS = 2
"""Of a loop whose end only a run knows: the second shows whether one follows on another."""


def branch(program: Program, step: Branch, scope: Scope) -> Events:
    """Follow an If."""
    condition = program.read(scope, step.inputs[0], step)
    known = condition.tensor.number
    taken = _decide(program, step, condition.number) if known is None else known != 0
    body = step.then_body if taken else step.else_body
    made = yield from program.body(step, body, (), scope)
    scope.update(zip(step.outputs, made, strict=True))


def repeat(program: Program, step: Repeat, scope: Scope) -> Events:
    """Follow a Loop."""
    trips, condition, *carried = (
        program.read(scope, name, step) for name in step.inputs[: 2 + step.carried]
    )
    has_trips, has_condition = map(bool, step.inputs[:2])
    initial, rows, is_assumed = carried, list[list[Value]](), False
    for k in count():
        unknown = []
        if has_trips:
            limit = trips.tensor.number
            if limit is not None and k >= limit:
                break
            unknown += [trips] if limit is None else []
        if has_condition or (k > 0 and step.stops):
            if condition.tensor.number == 0:
                break
            unknown += [condition] if condition.tensor.number is None else []
        if unknown:
            is_assumed = True
            goes_on = [_decide(program, step, value.number) for value in unknown]
            if not all(goes_on) or k == ASSUMED_ITERATIONS:
                break
        given = (program.shared.constant(k), condition, *carried)
        made = yield from program.body(step, step.body, given, scope)
        condition, carried = made[0], made[1 : 1 + step.carried]
        rows.append(made[1 + step.carried :])
    if is_assumed:
        carried = [_either(program, *pair) for pair in zip(initial, carried, strict=True)]
    scope.update(zip(step.outputs, carried, strict=False))
    names = step.outputs[step.carried :]
    decided = None if not is_assumed else (trips.number, condition.number)
    _stack(program, scope, names, rows, [0] * len(names), decided)


def scan(program: Program, step: Scan, scope: Scope) -> Events:
    """Follow a Scan."""
    walked = len(step.input_dims)
    read = [program.read(scope, name, step) for name in step.inputs[: step.states + walked]]
    states, inputs, rows = read[: step.states], read[step.states :], list[list[Value]]()
    shape = inputs[0].tensor.shape
    length = None if shape is None else shape[step.input_dims[0]]
    trips = length if length is not None else _decide(program, step, inputs[0].number)
    for _ in range(trips):
        slices = [
            program.shared.value(_element(value.tensor, dim))
            for value, dim in zip(inputs, step.input_dims, strict=True)
        ]
        made = yield from program.body(step, step.body, (*states, *slices), scope)
        states = made[: step.states]
        rows.append(made[step.states :])
    scope.update(zip(step.outputs, states, strict=False))
    names = step.outputs[step.states :]
    decided = None if length is not None else (inputs[0].number,)
    _stack(program, scope, names, rows, step.output_dims, decided)


def parallel_for(program: Program, step: ParallelFor, scope: Scope) -> Events:
    """Follow the ids of this rank; then the ranks exchange what they have made."""
    shared, rank = program.shared, program.rank
    event = Event(rank, step, shared.group(step, program.mesh, rank))
    total, *given = (program.read(scope, n, step) for n in step.inputs[: len(step.body.inputs)])
    number = total.tensor.number
    if number is not None and (number < 1 or (step.body.is_effect and number != len(event.group))):
        wanted = len(event.group) if step.body.is_effect else "at least 1"
        text = f"expected a count of {wanted}, got {number}"
        shared.findings.append(event.finding("mismatch", text))
    for k in () if number is None else _dealt(number, event.place, len(event.group)):
        yield from program.body(step, step.body, (shared.constant(k), *given), scope)
    made = yield event._replace(value=total)
    for k, name in enumerate(step.outputs):
        scope[name] = Value(UNKNOWN, shared.numbers.of("result", made.number, k))


FOLLOW: Mapping[type[Control], Callable[[Program, Any, Scope], Events]] = {
    Branch: branch, Repeat: repeat, Scan: scan, ParallelFor: parallel_for,
}  # fmt: skip


def _decide(program: Program, step: Control, number: int) -> bool:
    """Assume something of an unknown condition, and note it."""
    shared = program.shared
    effects = [s for body in step.bodies for s in body.communications if OPS[s.op].is_effect]
    about = f"{effects[0].op} {effects[0].node_name!r}" if effects else ""
    is_alike = isinstance(step, Branch) and _spoken(step.then_body) == _spoken(step.else_body)
    ranks = program.concerned[-1]
    decision = Decision(program.rank, step.op, step.node_name, abs(number), ranks, about, is_alike)
    shared.decisions.append(decision)
    return shared.assumed if number > 0 else not shared.assumed


def _spoken(plan: Plan) -> list[tuple[object, ...]]:
    """List what a body communicates, to be compared with another."""
    return [(s.op, _peer_name(s), sorted(s.attributes.items())) for s in plan.communications]


def _peer_name(step: Communicate) -> str:
    op = OPS[step.op]
    return step.inputs[op.operand != "none"] if op.peer is not None else ""


def _either(program: Program, before: Value, after: Value) -> Value:
    """What is known of a value that a loop may have changed, or not."""
    joined = before.tensor.joined(after.tensor)
    number = program.shared.numbers.of("either", before.number, after.number)
    return Value(joined, before.number if before == after else number)


def _element(tensor: Tensor, dim: int) -> Tensor:
    """What is known of an element along a dim."""
    if tensor.shape is None:
        return Tensor(tensor.dtype)
    shape = list(tensor.shape)
    del shape[dim]
    return Tensor(tensor.dtype, tuple(shape))


def _stack(
    program: Program,
    scope: Scope,
    names: Sequence[str],
    rows: Sequence[Sequence[Value]],
    dims: Sequence[int],
    decided: tuple[int, ...] | None,
) -> None:
    """Note what is known of the results of all iterations, stacked.

    `decided` are the numbers of what their count depends on; None where it is known.
    """
    for k, name in enumerate(names):
        tensors = [row[k].tensor for row in rows]
        joined = tensors[0] if tensors else UNKNOWN
        for tensor in tensors[1:]:
            joined = joined.joined(tensor)
        if joined.shape is not None:
            shape = list(joined.shape)
            place = dims[k] if dims[k] >= 0 else len(shape) + 1 + dims[k]
            shape.insert(place, len(tensors) if decided is None else None)
            joined = joined._replace(shape=tuple(shape))
        numbers = [row[k].number for row in rows]
        number = program.shared.numbers.of("stacked", dims[k], decided, *numbers)
        scope[name] = Value(joined._replace(content=None), number)


def _dealt(total: int, place: int, size: int) -> range:
    """The ids of one rank, dealt as numpy.array_split deals."""
    each, rest = divmod(total, size)
    start = place * each + min(place, rest)
    return range(start, start + each + (place < rest))
