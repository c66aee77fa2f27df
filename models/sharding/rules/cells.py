"""Cells of recurrent layers, written out: a step of the hidden units that a rank has.

A step is given the whole state and makes the rank's units of the next one. Formulas are those of
ONNX, computed as onnxruntime does: what goes into an activation is clipped, and nothing else.

Letters: B sequences, H hidden units, K those of a rank, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..site import int64
from .activations import Activation, Nodes


class Direction(NamedTuple):
    """What a step of one direction is made of, by name."""

    activations: Sequence[Activation]
    recurrent: Sequence[str]
    """[G * K, H]; of a GRU that of its first two gates, and that of the last"""
    given: str
    """[B, G * K]: what comes in, multiplied, with all biases but `bias`"""
    state: str
    """[B, H]"""
    own: str
    """[B, K]: the rank's units of the state"""
    cell: str
    """[B, K] of an LSTM"""
    bias: str
    """[K] that a GRU resets too; "" where there is none"""
    peepholes: str
    """[3 * K]; "" where there are none"""


class Made(NamedTuple):
    """What a step makes of one direction: [B, K] each."""

    own: str
    cell: str = ""


class Step(NamedTuple):
    """Where the nodes of a step go, and what all directions share."""

    on: Nodes
    units: int
    """K"""
    clip: float
    """0: nothing is clipped"""
    gather: Callable[[Sequence[str]], Sequence[str]]
    """makes [B, H] of each direction's [B, K]"""

    def rows(self, x: str, start: int, stop: int, dim: int = 0) -> str:
        """Take the gates from start to stop of a dim."""
        bounds = (start * self.units, stop * self.units, dim)
        return self.on.node("Slice", [x, *(self.on.constant(int64(n)) for n in bounds)])

    def gates(self, x: str, count: int, dim: int = 1) -> list[str]:
        return [self.rows(x, k, k + 1, dim) for k in range(count)]

    def product(self, x: str, recurrent: str, added: str) -> str:
        added = added or self.on.constant(np.zeros(1, np.float32))
        return self.on.node("Gemm", [x, recurrent, added], transB=1)

    def times(self, a: str, b: str) -> str:
        return self.on.node("Mul", [a, b])

    def plus(self, a: str, b: str) -> str:
        return self.on.node("Add", [a, b])

    def rest(self, x: str) -> str:
        """What is left of 1."""
        return self.on.node("Sub", [self.on.constant(np.array(1, np.float32)), x])

    def active(self, activation: Activation, x: str) -> str:
        if self.clip:
            low, high = (np.array(n, np.float32) for n in (-self.clip, self.clip))
            x = self.on.node("Min", [x, self.on.constant(high)])
            x = self.on.node("Max", [x, self.on.constant(low)])
        return activation.apply(self.on, x)


def lstm(step: Step, of: Direction, is_coupled: bool) -> Made:
    """Gates are i, o, f, c; f is 1 - i where they are coupled. Peepholes are those of i, o, f."""
    f, g, h = of.activations
    i, o, forget, c = step.gates(step.product(of.state, of.recurrent[0], of.given), 4)
    seen = step.gates(of.peepholes, 3, dim=0) if of.peepholes else None
    if seen:
        i = step.plus(i, step.times(seen[0], of.cell))
        forget = step.plus(forget, step.times(seen[2], of.cell))
    i = step.active(f, i)
    forget = step.rest(i) if is_coupled else step.active(f, forget)
    cell = step.plus(step.times(forget, of.cell), step.times(i, step.active(g, c)))
    if seen:
        o = step.plus(o, step.times(seen[1], cell))
    return Made(step.times(step.active(f, o), h.apply(step.on, cell)), cell)


def gru(step: Step, directions: Sequence[Direction], resets_after: bool) -> list[Made]:
    """Gates are z, r, h. What is reset before the product is gathered, since all units need it."""
    pairs = [
        step.gates(step.product(of.state, of.recurrent[0], step.rows(of.given, 0, 2, dim=1)), 2)
        for of in directions
    ]
    resets = [
        step.active(of.activations[0], r) for of, (_, r) in zip(directions, pairs, strict=True)
    ]
    if not resets_after:
        owned = zip(directions, resets, strict=True)
        resets = [*step.gather([step.times(r, of.own) for of, r in owned])]
    made = []
    for of, (z, _), reset in zip(directions, pairs, resets, strict=True):
        given, recurrent = step.rows(of.given, 2, 3, dim=1), of.recurrent[1]
        if resets_after:
            product = step.product(of.state, recurrent, of.bias)
            new = step.plus(given, step.times(reset, product))
        else:
            new = step.product(reset, recurrent, given)
        update = step.active(of.activations[0], z)
        new = step.times(step.rest(update), step.active(of.activations[1], new))
        made.append(Made(step.plus(new, step.times(update, of.own))))
    return made


def rnn(step: Step, of: Direction) -> Made:
    new = step.product(of.state, of.recurrent[0], of.given)
    return Made(step.active(of.activations[0], new))
