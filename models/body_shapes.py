"""Shapes inside of bodies, and of what comes out of them.

A dim that differs from branch to branch, or from step to step, has a size that is known only when
the model runs: a number stands for it that is another one at other sizes of the symbolic dims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

from .bodies import bodies, every
from .scans import counted, scanned

if TYPE_CHECKING:
    from .shapes import Shapes

OPEN = "?"
"""The symbolic dim that stands for sizes which depend on how control flows."""

Shape = tuple[int, ...]
Run = Callable[[Iterable[NodeProto]], None]


def infer_bodies(node: NodeProto, found: Shapes, unknown: int, run: Run) -> None:
    """Find the shapes in the bodies of a node, which `run` goes through, and of its outputs."""
    INFER[node.op_type](node, found, unknown, run)


def _branch(node: NodeProto, found: Shapes, unknown: int, run: Run) -> None:
    graphs = bodies(node)
    for body in graphs:
        run(body.node)
    for name, *results in zip(node.output, *(body.output for body in graphs), strict=False):
        _take(found, name, [value.name for value in results], unknown)


def _loop(node: NodeProto, found: Shapes, unknown: int, run: Run) -> None:
    (body,) = bodies(node)
    number, go = (value.name for value in body.input[:2])
    found.types |= {number: TensorProto.INT64, go: TensorProto.BOOL}
    found.shapes |= {number: (), go: ()}
    count = len(node.input) - 2
    results = [value.name for value in body.output[1:]]
    states = list(zip(node.input[2:], _names(body.input[2:]), results, strict=False))
    _settle(states, body, found, unknown, run)
    for name, (_, formal, result) in zip(node.output, states, strict=False):
        _take(found, name, [formal, result], unknown)
    made = trips(node, found) or unknown
    for name, result in zip(node.output[count:], results[count:], strict=False):
        _take(found, name, [result], unknown)
        if name in found.shapes:
            found.shapes[name] = (made, *found.shapes[name])


def _scan(node: NodeProto, found: Shapes, unknown: int, run: Run) -> None:
    (body,) = bodies(node)
    form = scanned(node)
    count = form.states
    formals, results = _names(body.input), _names(body.output)
    length = unknown
    ways = zip(node.input[count:], formals[count:], form.input_dims, strict=True)
    for name, formal, dim in ways:
        _take(found, formal, [name], unknown)
        if formal in found.shapes:
            shape = list(found.shapes[formal])
            length = shape.pop(counted(node, "scan_input_axes", dim, len(shape)))
            found.shapes[formal] = tuple(shape)
    states = list(zip(node.input[:count], formals, results, strict=False))
    _settle(states, body, found, unknown, run)
    for name, (_, formal, result) in zip(node.output, states, strict=False):
        _take(found, name, [formal, result], unknown)
    made = zip(node.output[count:], results[count:], form.output_dims, strict=True)
    for name, result, dim in made:
        _take(found, name, [result], unknown)
        if name in found.shapes:
            shape = list(found.shapes[name])
            shape.insert(counted(node, "scan_output_axes", dim, len(shape) + 1), length)
            found.shapes[name] = tuple(shape)


INFER = {"If": _branch, "Loop": _loop, "Scan": _scan}


def _names(values: Iterable[ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


def trips(node: NodeProto, found: Shapes) -> int | None:
    """Return how often the body of a Loop runs, None where it depends on what is fed."""
    (body,) = bodies(node)
    producer = {name: inner for inner in body.node for name in inner.output}
    go = body.output[0].name
    while go in producer and producer[go].op_type == "Identity":
        go = producer[go].input[0]
    given = {name for name in (node.input[1], go) if name and name != body.input[1].name}
    count = found.values.get(node.input[0])
    if count is None or not all(_is_true(found, name) for name in given):
        return None
    return int(count.reshape(()))


def steps(node: NodeProto, found: Shapes) -> int:
    """Return how often the bodies of a node run, as far as it is known: else once."""
    if not bodies(node) or node.op_type == "If":
        return 1
    if node.op_type == "Loop":
        return trips(node, found) or 1
    shape = found.shapes.get(node.input[-1])
    return shape[scanned(node).input_dims[-1]] if shape else 1


def _is_true(found: Shapes, name: str) -> bool:
    return name in found.values and bool(found.values[name].all())


def _settle(
    states: Sequence[tuple[str, str, str]], body: GraphProto, found: Shapes, unknown: int, run: Run
) -> None:
    """Give what a body is given the sizes that it has in all steps: those that change are open.

    A state has a name before the first step, one in the body and one after a step.
    """
    inside = {name for node in every(body.node) for name in node.output}
    for initial, formal, _ in states:
        _take(found, formal, [initial], unknown)
    while True:
        before = [found.shapes.get(formal) for _, formal, _ in states]
        for name in inside:
            for known in (found.types, found.shapes, found.values):
                known.pop(name, None)
        run(body.node)
        for _, formal, result in states:
            _open(found, formal, result, unknown)
        if before == [found.shapes.get(formal) for _, formal, _ in states]:
            return


def _open(found: Shapes, formal: str, result: str, unknown: int) -> None:
    """Open the dims of what a body is given that are others after a step."""
    a, b = found.shapes.get(formal), found.shapes.get(result)
    if a is None or b is None or len(a) != len(b):
        found.shapes.pop(formal, None)
    else:
        found.shapes[formal] = _meet([a, b], unknown)


def _take(found: Shapes, name: str, given: Sequence[str], unknown: int) -> None:
    """Note the type and shape of a tensor that may be any of those given."""
    if not name:
        return
    kinds = [found.types[n] for n in given if n in found.types]
    shapes = [found.shapes[n] for n in given if n in found.shapes]
    found.types.pop(name, None)
    found.shapes.pop(name, None)
    if kinds:
        found.types[name] = kinds[0]
    if len(shapes) == len(given) and len(set(map(len, shapes))) == 1:
        found.shapes[name] = _meet(shapes, unknown)


def _meet(shapes: Sequence[Shape], unknown: int) -> Shape:
    """Return the sizes that all shapes have, and open ones."""
    return tuple(
        sizes[0] if len(set(sizes)) == 1 else unknown for sizes in zip(*shapes, strict=True)
    )
