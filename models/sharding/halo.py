"""Halos: what a rank's kernel reads of the places that other ranks have.

The places of a dim lie on the ranks in runs, in their order. Which of them a rank reads, and whose
they are, is known before the model runs: so halos are Sends and Recvs, from one rank to another
wherever what one has and what the other reads overlap. They are neighbours, as long as no kernel
covers more than a rank has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .axes import Axis
from .layout import Layout
from .site import Tensor
from .window import Window


class Message(NamedTuple):
    """Places that one rank sends to another, by their numbers in the whole dim."""

    source: int
    dest: int
    places: range


def messages(window: Window, layout: Layout) -> Iterator[Message]:
    """Yield the messages of a halo, by source and destination; none where the input is whole."""
    if not layout.holds(window.given):
        return
    for source in range(layout.size):
        own = run(layout, window.given, source)
        for dest in range(layout.size):
            places = overlap(own, window.reads(run(layout, window.made, dest)))
            if source != dest and places:
                yield Message(source, dest, places)


class Emitter(Protocol):
    """What nodes are added to."""

    def constant(self, array: npt.NDArray[Any]) -> str: ...

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str: ...

    def send(self, name: str, dest: int, tensor: Tensor, dim: int, count: int) -> None: ...

    def recv(self, source: int, tensor: Tensor, dim: int, count: int) -> str: ...


def with_halo(
    emit: Emitter, name: str, tensor: Tensor, window: Window, layout: Layout, rank: int
) -> str:
    """Add nodes that bring together what a rank reads, given its run of the places."""
    own = run(layout, window.given, rank)
    coming = [each for each in messages(window, layout) if each.dest == rank]
    for each in messages(window, layout):
        if each.source == rank:
            part = keep(emit, name, window.dim, own, each.places)
            emit.send(part, each.dest, tensor, window.dim, len(each.places))
    kept = overlap(own, window.reads(run(layout, window.made, rank)))
    parts = {each.places.start: (each.source, each.places) for each in coming}
    if kept:
        parts[kept.start] = (rank, kept)
    names = [
        keep(emit, name, window.dim, own, places)
        if source == rank
        else emit.recv(source, tensor, window.dim, len(places))
        for _, (source, places) in sorted(parts.items())
    ]
    return emit.node("Concat", names, axis=window.dim) if len(names) > 1 else names[0]


def keep(emit: Emitter, name: str, dim: int, held: range, wanted: range) -> str:
    """Add a node that keeps some of the places that a tensor holds, if it holds others."""
    if held == wanted:
        return name
    places = np.arange(wanted.start - held.start, wanted.stop - held.start)
    return emit.node("Gather", [name, emit.constant(places)], axis=dim)


def run(layout: Layout, axis: Axis, rank: int) -> range:
    """Return the places of a rank, which follow one another."""
    found = layout.run(axis, rank)
    assert found is not None
    return found


def overlap(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def sliding(windows: list[Window], layout: Layout) -> Window | None:
    """Return the window along which a node makes a part of its output."""
    return next((window for window in windows if layout.holds(window.made)), None)


def sent(window: Window, layout: Layout, nbytes: int) -> list[int]:
    """Return the bytes of the messages of the rank that sends the most, given the input's."""
    by_source: list[list[int]] = [[] for _ in range(layout.size)]
    for each in messages(window, layout):
        size = nbytes * len(each.places) // window.length
        by_source[each.source].append(size)
    return max(by_source, key=lambda sizes: (sum(sizes), len(sizes)))
