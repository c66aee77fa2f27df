"""Bodies that communicate: branches taken, loops followed, and what is assumed of the unknown.

Where only a run knows a condition or a trip count, a proof assumes it: true everywhere in one
pass, false everywhere in another. Each assumption is noted as a Decision, so that it can be told
whether all ranks that it concerns decide on the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from ..plan import Branch, Control, ParallelFor, Repeat, Scan
from ..weights import bounds
from .events import Decision, Event, Events, Value
from .findings import Finding
from .values import UNKNOWN, Tensor

if TYPE_CHECKING:
    from .program import Program, Scope

ASSUMED_ITERATIONS = 2
"""Of a loop whose end only a run knows: the second shows whether one follows on another."""


def branch(program: Program, step: Branch, scope: Scope) -> Events:
    """Follow an If: one way, or both where neither communicates and only a run knows which."""
    condition = program.read(scope, step.inputs[0], step)
    known = condition.tensor.number
    if known is None and not any(body.is_effect for body in step.bodies):
        one = yield from program.body(step, step.then_body, (), scope)
        other = yield from program.body(step, step.else_body, (), scope)
        made = _either(program, one, other, [condition])
    else:
        taken = _decide(program, step, condition) if known is None else known != 0
        body = step.then_body if taken else step.else_body
        made = yield from program.body(step, body, (), scope)
        if known is None:
            made = _assumed(program, step, condition, made)
    scope.update(zip(step.outputs, made, strict=True))


def repeat(program: Program, step: Repeat, scope: Scope) -> Events:
    """Follow a Loop."""
    trips, condition, *carried = (
        program.read(scope, name, step) for name in step.inputs[: 2 + step.carried]
    )
    has_trips, has_condition = map(bool, step.inputs[:2])
    initial, rows, assumed = carried, list[list[Value]](), list[Value]()
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
            assumed += unknown
            goes_on = [_decide(program, step, value) for value in unknown]
            if not all(goes_on) or k == ASSUMED_ITERATIONS:
                break
        given = (program.shared.constant(k), condition, *carried)
        made = yield from program.body(step, step.body, given, scope)
        condition, carried = made[0], made[1 : 1 + step.carried]
        rows.append(made[1 + step.carried :])
    if assumed:
        carried = _either(program, initial, carried, assumed)
    scope.update(zip(step.outputs, carried, strict=False))
    dims = [0] * (len(step.outputs) - step.carried)
    _stack(program, step, scope, rows, dims, assumed)


def scan(program: Program, step: Scan, scope: Scope) -> Events:
    """Follow a Scan."""
    walked = len(step.input_dims)
    read = [program.read(scope, name, step) for name in step.inputs[: step.states + walked]]
    initial, inputs, rows = read[: step.states], read[step.states :], list[list[Value]]()
    ways = zip(inputs, step.input_dims, strict=True)
    length, *_ = [_length(program, step, value, dim) for value, dim in ways]
    trips = length if length is not None else _decide(program, step, inputs[0])
    states = initial
    for _ in range(trips):
        slices = [
            program.shared.value(_element(value.tensor, dim))
            for value, dim in zip(inputs, step.input_dims, strict=True)
        ]
        made = yield from program.body(step, step.body, (*states, *slices), scope)
        states = made[: step.states]
        rows.append(made[step.states :])
    if length is None:
        states = _either(program, initial, states, [inputs[0]])
    scope.update(zip(step.outputs, states, strict=False))
    _stack(program, step, scope, rows, step.output_dims, [] if length is not None else inputs[:1])


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
    if number is None and step.body.is_effect:
        number = len(event.group)  # any other one is refused
    for k in () if number is None else range(*bounds(number, event.place, len(event.group))):
        yield from program.body(step, step.body, (shared.constant(k), *given), scope)
    program.concern(event.group)
    made = yield event._replace(value=total)
    for k, name in enumerate(step.outputs):
        scope[name] = Value(UNKNOWN, shared.numbers.of("result", made.number, k))


FOLLOW: Mapping[type[Control], Callable[[Program, Any, Scope], Events]] = {
    Branch: branch, Repeat: repeat, Scan: scan, ParallelFor: parallel_for,
}  # fmt: skip


def _decide(program: Program, step: Control, condition: Value) -> bool:
    """Assume something of an unknown condition, and note it."""
    shared, number = program.shared, condition.number
    about = next((s.label for body in step.bodies for s in body.effects), "")
    ranks = program.concerned[-1]
    decision = Decision(program.rank, step.op, step.node_name, abs(number), ranks, about)
    shared.decisions.append(decision)
    return shared.assumed if number > 0 else not shared.assumed


def _assumed(program: Program, step: Branch, condition: Value, made: list[Value]) -> list[Value]:
    """What is known of the results of an assumed way: where conditions mix, of either way."""
    shared, key = program.shared, (program.rank, id(step))
    tensors = shared.ways.get(key, [value.tensor for value in made])
    both = [tensor.joined(value.tensor) for tensor, value in zip(tensors, made, strict=True)]
    shared.ways[key] = both
    if not shared.is_mixed:
        return made
    number = shared.numbers.of
    return [
        value
        if tensor.content is not None
        else Value(tensor, number("either", condition.number, value.number))
        for tensor, value in zip(both, made, strict=True)
    ]


def _either(
    program: Program, ones: Iterable[Value], others: Iterable[Value], deciding: Iterable[Value]
) -> list[Value]:
    """What is known of values that are the ones or the others, as unknown conditions decide."""
    numbers, conditions = program.shared.numbers, tuple([value.number for value in deciding])
    return [
        one
        if one == other
        else Value(
            one.tensor.joined(other.tensor),
            numbers.of("either", conditions, one.number, other.number),
        )
        for one, other in zip(ones, others, strict=True)
    ]


def _element(tensor: Tensor, dim: int) -> Tensor:
    """What is known of an element along a dim."""
    shape = tensor.shape
    if shape is None or not -len(shape) <= dim < len(shape):
        return Tensor(tensor.dtype)
    dim %= len(shape)
    return Tensor(tensor.dtype, shape[:dim] + shape[dim + 1 :])


def _length(program: Program, step: Scan, value: Value, dim: int) -> int | None:
    """The length of what a Scan goes along, if that is known; 0 of a dim that is none."""
    shape = value.tensor.shape
    if shape is None:
        return None
    place = _counted(program, step, "scan_input_axes", dim, len(shape))
    return 0 if place is None else shape[place]


def _counted(program: Program, step: Control, name: str, dim: int, rank: int) -> int | None:
    """Count a dim from the first one; note one that tensors of that rank do not have."""
    if -rank <= dim < rank:
        return dim % rank
    text = f"expected {name} from {-rank} to {rank - 1}, got {dim}"
    found = Finding("mismatch", program.rank, step.op, step.node_name, text)
    program.shared.findings.append(found)
    return None


def _stack(
    program: Program,
    step: Repeat | Scan,
    scope: Scope,
    rows: Sequence[Sequence[Value]],
    dims: Sequence[int],
    assumed: Sequence[Value],
) -> None:
    """Note what is known of the latest outputs: results of all iterations, stacked along dims.

    `assumed` is what their count depends on; nothing where it is known.
    """
    decided = tuple(value.number for value in assumed)
    for k, name in enumerate(step.outputs[len(step.outputs) - len(dims) :]):
        tensors = [row[k].tensor for row in rows]
        joined = tensors[0] if tensors else UNKNOWN
        for tensor in tensors[1:]:
            joined = joined.joined(tensor)
        if joined.shape is not None:
            shape, count = joined.shape, None if assumed else len(tensors)
            at = _counted(program, step, "scan_output_axes", dims[k], len(shape) + 1)
            whole = None if at is None else (*shape[:at], count, *shape[at:])
            joined = joined._replace(shape=whole)
        numbers = [row[k].number for row in rows]
        number = program.shared.numbers.of("stacked", dims[k], decided, *numbers)
        scope[name] = Value(joined._replace(content=None), number)
