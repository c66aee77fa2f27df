"""Rules of operators with bodies: what goes into a body and comes out of it is one tensor.

A dim that is another one from step to step, or in the other branch, is needed whole; so is one
whose structures do not fit. Conditions and counts are small and whole, and so the same on all
ranks: they take the same branches, and go through as many steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..axes import Axis, Conflict, unify
from ..site import Site, Tensor

Row = Sequence[Tensor | None]


def branch(site: Site) -> None:
    """If: an output is what either branch gives."""
    one, other = site.bodies
    for tensors in zip(_made(site), one.outputs, other.outputs, strict=False):
        _same(site, tensors)


def loop(site: Site) -> None:
    """Loop: what is carried keeps its axes; what is collected gets a dim in front."""
    (body,) = site.bodies
    states, results = _given(site)[2:], body.outputs[1:]
    count = len(states)
    _carry(site, states, body.inputs[2:], results)
    _collect(site, results[count:], _made(site)[count:], [0] * (len(results) - count))


def scan(site: Site) -> None:
    """Scan: as Loop; what it goes along is taken apart, one index at a time."""
    if not site.bodies:
        raise Conflict("before opset 9 it goes through a batch of sequences of several lengths")
    (body,) = site.bodies
    count = len(site.node.input) - site.attribute("num_scan_inputs")
    walked, made = _given(site)[count:], body.outputs[count:]
    _carry(site, _given(site)[:count], body.inputs, body.outputs)
    axes = site.attribute("scan_input_axes", [0] * len(walked))
    _collect(site, body.inputs[count:], walked, axes)
    axes = site.attribute("scan_output_axes", [0] * len(made))
    _collect(site, made, _made(site)[count:], axes)


def _given(site: Site) -> Row:
    return site.inputs[: len(site.node.input)]


def _made(site: Site) -> Row:
    return site.outputs[: len(site.node.output)]


def _carry(site: Site, initial: Row, formal: Row, result: Row) -> None:
    """Tie what a state is before the first step, in the body, after a step and in the end."""
    final = _made(site)[: len(initial)]
    last = [*final, *[None] * (len(initial) - len(final))]
    for tensors in zip(initial, formal, result, last, strict=False):
        _same(site, tensors)


def _collect(site: Site, parts: Row, wholes: Row, axes: Sequence[int]) -> None:
    """Tie tensors of single steps to those of all steps, which have a dim more."""
    for part, whole, axis in zip(parts, wholes, axes, strict=False):
        if whole is None or part is None:
            continue
        if not part.has_shape or whole.rank != part.rank + 1:
            site.whole(*part.axes, *whole.axes)
            continue
        dim = axis % whole.rank
        site.whole(whole.axes[dim])
        rest = (*whole.axes[:dim], *whole.axes[dim + 1 :])
        for pair in zip(part.axes, rest, strict=True):
            _tie_or_whole(site, pair)


def _same(site: Site, tensors: Iterable[Tensor | None]) -> None:
    """Tie the dims of tensors that are one, as far as they have the same sizes."""
    known = [tensor for tensor in tensors if tensor is not None]
    if len({tensor.rank for tensor in known}) > 1 or not all(t.has_shape for t in known):
        for tensor in known:
            site.whole(*tensor.axes)
        return
    for axes in zip(*(tensor.axes for tensor in known), strict=True):
        _tie_or_whole(site, axes)


def _tie_or_whole(site: Site, axes: Sequence[Axis | None]) -> None:
    """Make axes one; where that cannot be, they are needed whole."""
    first, *others = axes
    try:
        for axis in others:
            if first is None or axis is None:
                if first is not axis:
                    raise Conflict("a dim is of size 1 in one place only")
            else:
                unify(first, axis)
    except Conflict:
        site.whole(*axes)
