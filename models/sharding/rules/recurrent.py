"""Rules of operators that go through a sequence step by step."""

from __future__ import annotations

from typing import NamedTuple

from ..axes import Axis, Conflict, concatenation
from ..site import Site, Tensor
from .activations import Activation, activations
from .forms import axis_of

FIRST_OPSET = 10
"""In which a Slice can go backward."""

X, W, R, B, LENGTHS, STATE, CELL, PEEPHOLES = range(8)
"""Positions of inputs."""


class Kind(NamedTuple):
    """A kind of cell."""

    gates: int
    activations: tuple[str, ...]
    """of a direction, where none are given"""


KINDS = {
    "GRU": Kind(3, ("Sigmoid", "Tanh")),
    "LSTM": Kind(4, ("Sigmoid", "Tanh", "Tanh")),
    "RNN": Kind(1, ("Tanh",)),
}

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Which directions go from the end of a sequence to its start."""


def recurrent(site: Site) -> None:
    """RNN, GRU, LSTM: sequences of a batch are independent; of a step, so are hidden units."""
    is_batch_first = bool(site.attribute("layout", 0))
    inner = 0 if is_batch_first else 1
    batch = site.tensor(X).axes[inner]
    places = {X: inner, LENGTHS: 0, STATE: inner, CELL: inner}
    cut = _tie_units(site)
    for position, tensor in enumerate(site.inputs):
        if tensor is not None:
            passed = 1 if position in cut else None
            _batch_passes(site, tensor, places.get(position), batch, passed)
    for position, tensor in enumerate(site.outputs):
        if tensor is not None:
            place = inner if position or is_batch_first else 2
            _batch_passes(site, tensor, place, batch)


def _batch_passes(
    site: Site, tensor: Tensor, place: int | None, batch: Axis | None, passed: int | None = None
) -> None:
    for dim, axis in enumerate(tensor.axes):
        if dim == place:
            site.tie(axis, batch)
        elif dim != passed:
            site.whole(axis)


def _tie_units(site: Site) -> tuple[int, ...]:
    """Tie the hidden units of all gates; return the inputs that have them, or note why not."""
    gates, _ = KINDS[site.node.op_type]
    counts = {W: gates, R: gates, B: 2 * gates, PEEPHOLES: 3}
    try:
        units = _units(site)
        for position in filter(site.has, counts):
            site.tie(site.tensor(position).axes[1], concatenation([units] * counts[position]))
    except Conflict as conflict:
        site.note = f"hidden units stay together: {conflict}; the batch passes"
        return ()
    site.gathered.append(units)
    return tuple(counts)


def _units(site: Site) -> Axis:
    """Return a new axis of the hidden units. Raises Conflict where they cannot be cut."""
    if site.opset < FIRST_OPSET:
        raise Conflict(f"before opset {FIRST_OPSET} a layer is not written out step by step")
    functions(site)
    size = site.tensor(R).shape[2]
    if not size.is_static or size.first == 1:
        raise Conflict(f"there are {size.first if size.is_static else 'any number'} of them")
    return axis_of(size.first)


def functions(site: Site) -> list[list[Activation]]:
    """Return the activations of each direction. Raises Conflict for one that is not known."""
    return activations(site, KINDS[site.node.op_type].activations, len(directions(site)))


def directions(site: Site) -> tuple[bool, ...]:
    """Return for each direction whether it goes from the end to the start."""
    return DIRECTIONS[site.attribute("direction", "forward")]


def reverse_sequence(site: Site) -> None:
    """Each sequence of the batch has a length of its own."""
    x = site.tensor(0)
    batch = site.attribute("batch_axis", 1)
    site.tie_all(x.axes, site.output().axes)
    site.tie(x.axes[batch], site.tensor(1).axes[0])
    site.whole(x.axes[site.attribute("time_axis", 0)])
