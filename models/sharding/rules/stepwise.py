"""Recurrent layers written out as a Scan, each rank making its hidden units of a step.

The whole state is gathered in every step. What comes in is multiplied before the Scan, for all
steps at once. Both directions go through one Scan, and share its collectives; what goes backward
is turned round before it, and after it again.

Letters: S steps, B sequences, D directions, I width of what comes in, G gates, H hidden units, K
those of a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import TensorProto, numpy_helper

from ..rewrite import Array, ScanWriter
from ..site import Site, int64
from .cells import Direction, Made, Step, gru, lstm, rnn
from .recurrent import (
    CELL,
    KINDS,
    LENGTHS,
    PEEPHOLES,
    STATE,
    B,
    R,
    W,
    X,
    directions,
    functions,
)  # fmt: skip

TO_THE_START = -(2**31)
"""The end of a slice that goes backward to the first element."""


def written_out(on: ScanWriter, site: Site) -> list[str]:
    """Write a layer out for one rank; return the names of its outputs, "" for absent ones."""
    return _Layer(on, site).outputs()


@dataclass(frozen=True)
class _Layer:
    """A layer, and where its nodes go."""

    on: ScanWriter
    site: Site

    @cached_property
    def op(self) -> str:
        return self.site.node.op_type

    @cached_property
    def backward(self) -> tuple[bool, ...]:
        """By direction."""
        return directions(self.site)

    @cached_property
    def units(self) -> int:
        """K."""
        return self.on.layout.local(self.site.gathered[0], self.on.rank).first

    @cached_property
    def is_batch_first(self) -> bool:
        return bool(self.site.attribute("layout", 0))

    @cached_property
    def resets_after(self) -> bool:
        return self.op == "GRU" and bool(self.site.attribute("linear_before_reset", 0))

    @cached_property
    def keeps_own(self) -> bool:
        """Say whether a step needs the rank's units of the state by themselves."""
        return self.op == "GRU" or self.site.has(LENGTHS)

    @cached_property
    def x(self) -> str:
        """[S, B, I]."""
        return self._batch_second(self._given(X))

    def outputs(self) -> list[str]:
        # The first has one length on all ranks, as can be seen without running it.
        elements = [self.x, *(self._product(d) for d in range(len(self.backward)))]
        if self.site.has(LENGTHS):
            valid = self.on.node("Reshape", [self._valid, self.on.constant(int64(0, 0, 1))])
            elements += [self._turned(valid) if back else valid for back in self.backward]
        states = [self._initial(STATE)]
        states += self._owned(states[0]) if self.keeps_own else []
        states += self._owned(self._initial(CELL)) if self.op == "LSTM" else []
        floats = len(states) + 1 + len(self.backward)
        kinds = [TensorProto.FLOAT] * floats
        kinds += [TensorProto.BOOL] * (len(states) + len(elements) - floats)
        last, *others, every = self.on.scan(states, elements, kinds, self._step)
        made = [*self.site.outputs, None, None][:3]
        names = [""] * len(made)
        if made[0] is not None:
            names[0] = self._sequence(every)
        if made[1] is not None:
            names[1] = self._final(last)
        if made[2] is not None:
            names[2] = self._final(self._gathered(others[-len(self.backward) :]))
        return [self._narrowed(name) for name in names[: len(self.site.outputs)]]

    def _given(self, position: int) -> str:
        """Return the rank's part of an input, in float32."""
        tensor = self.site.tensor(position)
        name = self.on.local(tensor)
        if tensor.data_type == TensorProto.FLOAT:
            return name
        return self.on.node("Cast", [name], to=TensorProto.FLOAT)

    def _narrowed(self, name: str) -> str:
        kind = self.site.tensor(X).data_type
        return (
            name
            if not name or kind == TensorProto.FLOAT
            else self.on.node("Cast", [name], to=kind)
        )

    def _batch_second(self, name: str) -> str:
        return self.on.node("Transpose", [name], perm=[1, 0, 2]) if self.is_batch_first else name

    def _at(self, name: str, d: int) -> str:
        """Take one direction of a tensor that has D first."""
        return self.on.node("Gather", [name, self.on.constant(np.array(d))], axis=0)

    def _turned(self, name: str) -> str:
        """Go along the first dim from its end to its start."""
        bounds = [self.on.constant(int64(n)) for n in (-1, TO_THE_START, 0, -1)]
        return self.on.node("Slice", [name, *bounds])

    def _rows(self, name: str, start: int, stop: int) -> str:
        """Take gates of K rows each."""
        bounds = (start * self.units, stop * self.units, 0)
        return self.on.node("Slice", [name, *(self.on.constant(int64(n)) for n in bounds)])

    def _product(self, d: int) -> str:
        """Multiply what comes in, [S, B, G * K], and add the biases."""
        weight = self.on.node("Transpose", [self._at(self._given(W), d)], perm=[1, 0])
        product = self.on.node("MatMul", [self.x, weight])
        if self.site.has(B):
            gates = KINDS[self.op].gates
            biases = self._at(self._given(B), d)
            own = self._rows(biases, gates, 2 * gates)
            if self.resets_after:  # the last gate's is added in the step
                kept = np.repeat(np.array([1, 1, 0], np.float32), self.units)
                own = self.on.node("Mul", [own, self.on.constant(kept)])
            bias = self.on.node("Add", [self._rows(biases, 0, gates), own])
            product = self.on.node("Add", [product, bias])
        return self._turned(product) if self.backward[d] else product

    @cached_property
    def _valid(self) -> str:
        """Say of each step whether it is one of a sequence: [S, B]."""
        one = numpy_helper.from_array(int64(1))
        ones = self.on.node("ConstantOfShape", [self._size(0)], value=one)
        numbers = self.on.node("Transpose", [self.on.node("NonZero", [ones])], perm=[1, 0])
        return self.on.node("Less", [numbers, self._lengths])

    @cached_property
    def _lengths(self) -> str:
        lengths = self.on.local(self.site.tensor(LENGTHS))
        return self.on.node("Cast", [lengths], to=TensorProto.INT64)

    def _size(self, dim: int) -> str:
        """Return the size of a dim of [S, B, I], as a vector."""
        shape = self.on.node("Shape", [self.x])
        return self.on.node("Gather", [shape, self.on.constant(int64(dim))], axis=0)

    def _initial(self, position: int) -> str:
        """Return what a state is before the first step, [D, B, H]."""
        if self.site.has(position):
            return self._batch_second(self._given(position))
        hidden = self.site.tensor(R).shape[2].first
        sizes = [self.on.constant(int64(n)) for n in (len(self.backward), hidden)]
        shape = self.on.node("Concat", [sizes[0], self._size(1), sizes[1]], axis=0)
        return self.on.node("ConstantOfShape", [shape])

    def _owned(self, state: str) -> list[str]:
        """Return the rank's units of a state, [B, K] of each direction."""
        kept = self.on.layout.indices(self.site.gathered[0], self.on.rank)
        assert kept is not None
        own = self.on.node("Gather", [state, self.on.constant(kept)], axis=2)
        return [self._at(own, d) for d in range(len(self.backward))]

    def _gathered(self, parts: Sequence[str]) -> str:
        """Gather [B, K] of each direction, to [D, B, H]."""
        shape = self.on.constant(int64(1, -1, self.units))
        rows = [self.on.node("Reshape", [part, shape]) for part in parts]
        own = rows[0] if len(rows) == 1 else self.on.node("Concat", rows, axis=0)
        return self.on.all_gather(own, 2)

    def _gathered_each(self, parts: Sequence[str]) -> list[str]:
        whole = self._gathered(parts)
        return [self._at(whole, d) for d in range(len(parts))]

    def _step(
        self, states: Sequence[str], elements: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Write the body of the Scan; of what comes in it reads the products alone."""
        _, *elements = elements
        count, step = len(self.backward), self._shared
        own = states[1 : 1 + count] if self.keeps_own else [""] * count
        cells = states[-count:] if self.op == "LSTM" else [""] * count
        given = [
            self._direction(d, states[0], own[d], cells[d], elements[d]) for d in range(count)
        ]
        if self.op == "LSTM":
            is_coupled = bool(self.site.attribute("input_forget", 0))
            made = [lstm(step, each, is_coupled) for each in given]
        elif self.op == "GRU":
            made = gru(step, given, self.resets_after)
        else:
            made = [rnn(step, each) for each in given]
        if valid := elements[count:]:
            made = [self._held(*each) for each in zip(valid, given, made, strict=True)]
        after = [self._gathered([each.own for each in made])]
        after += [each.own for each in made] if self.keeps_own else []
        return after + [each.cell for each in made if each.cell], after[:1]

    @property
    def _shared(self) -> Step:
        clip = float(self.site.attribute("clip", 0.0))
        return Step(self.on, self.units, clip, self._gathered_each)

    def _direction(self, d: int, state: str, own: str, cell: str, given: str) -> Direction:
        peepholes = bias = ""
        if self.op == "LSTM" and self.site.has(PEEPHOLES):
            peepholes = self._at(self._given(PEEPHOLES), d)
        if self.resets_after and self.site.has(B):
            bias = self._rows(self._at(self._given(B), d), 5, 6)
        return Direction(
            functions(self.site)[d], self._recurrent(d), given, self._at(state, d), own, cell,
            bias, peepholes,
        )  # fmt: skip

    def _recurrent(self, d: int) -> list[str]:
        weight = self._at(self._given(R), d)
        if self.op != "GRU":
            return [weight]
        return [self._rows(weight, 0, 2), self._rows(weight, 2, 3)]

    def _held(self, valid: str, before: Direction, made: Made) -> Made:
        """Leave the state of a sequence what it was, where it has no such step."""
        own = self.on.node("Where", [valid, made.own, before.own])
        cell = self.on.node("Where", [valid, made.cell, before.cell]) if made.cell else ""
        return Made(own, cell)

    def _sequence(self, every: str) -> str:
        """Return the states of all steps as the layer gives them, zero where there is no step."""
        sides = []
        for d, is_backward in enumerate(self.backward):
            side = every
            if len(self.backward) > 1:
                one = self.on.constant(int64(d))
                side = self.on.node("Gather", [every, one], axis=1)
            sides.append(self._turned(side) if is_backward else side)
        made = sides[0] if len(sides) == 1 else self.on.node("Concat", sides, axis=1)
        if self.site.has(LENGTHS):
            made = self._masked(made, self._valid, int64(0, 1, -1, 1))
        if self.is_batch_first:
            made = self.on.node("Transpose", [made], perm=[2, 0, 1, 3])
        return made

    def _final(self, state: str) -> str:
        """Return a state as the layer gives it, zero of a sequence of no steps."""
        if self.site.has(LENGTHS):
            zero = self.on.constant(np.array(0))
            state = self._masked(state, self.on.node("Less", [zero, self._lengths]), int64(-1, 1))
        return self._batch_second(state)

    def _masked(self, name: str, mask: str, shape: Array) -> str:
        mask = self.on.node("Reshape", [mask, self.on.constant(shape)])
        return self.on.node("Where", [mask, name, self.on.constant(np.zeros((), np.float32))])
