"""What a rank communicates, and what the programs of all ranks have in common."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np

from ..errors import ModelError
from ..groups import members
from ..mesh import Mesh
from ..plan import Communicate, ParallelFor
from .findings import Finding, Kind
from .transfer import Node, Transfer
from .values import UNKNOWN, Array, Tensor

STEPS = 5_000_000
"""Nodes that are looked at, of all ranks and iterations together: a minute at the most."""


class Exhausted(Exception):  # noqa: N818 - it says that the proof stops, not that something failed
    """Say that there are more steps than are looked at."""


class Value(NamedTuple):
    """A tensor and its number: that of all that is known to be the same, on whatever rank."""

    tensor: Tensor
    number: int


class Event(NamedTuple):
    """One communication node, as one rank comes to it."""

    rank: int
    step: Communicate | ParallelFor
    group: tuple[int, ...]
    """ranks of the world, in group order"""
    value: Value | None = None
    """the operand"""
    peer: int | None = None
    """the rank of the world that it sends to or receives from; None where only a run knows"""

    @property
    def op(self) -> str:
        return self.step.op

    @property
    def node(self) -> str:
        return self.step.node_name or next(iter(self.step.inputs), "")

    @property
    def place(self) -> int:
        """This rank's number within the group."""
        return self.group.index(self.rank)

    @property
    def operand(self) -> Tensor:
        return UNKNOWN if self.value is None else self.value.tensor

    @property
    def tag(self) -> int:
        return int(self.step.attributes["tag"])

    @property
    def key(self) -> tuple[tuple[int, ...], int | None, int | None, int]:
        """What a Send and its Recv have in common: group, source, dest and tag."""
        ends = (self.rank, self.peer) if self.op == "Send" else (self.peer, self.rank)
        return self.group, *ends, self.tag

    @property
    def is_open(self) -> bool:
        """Whether only a run knows the shape of what is given, or the peer."""
        if self.op in ("Send", "Recv") and self.peer is None:
            return True
        return self.value is not None and not self.value.tensor.is_fixed

    def finding(self, kind: Kind, text: str, *, is_certain: bool = True) -> Finding:
        return Finding(kind, self.rank, self.op, self.node, text, is_certain)

    def __str__(self) -> str:
        return f"{self.op} {self.node!r} of rank {self.rank}"


Events = Generator[Event, Value, None]


class Decision(NamedTuple):
    """An unknown condition that a rank has come to."""

    rank: int
    op: str
    node: str
    number: int
    """that of the condition or of its negation"""
    ranks: set[int]
    """who communicates in what it decides on, as far as the program has come"""
    about: str
    """the first communication there, "" if there is none"""


class Numbers:
    """The numbers of values: the same for the same description."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}
        self._next = count(1)

    def of(self, *description: object) -> int:
        found = self._known.get(description)
        if found is None:
            found = self._known[description] = next(self._next)
        return found

    def fresh(self) -> int:
        """Return the number of a value that nothing is known to equal."""
        return next(self._next)


@dataclass
class Shared:
    """What the programs of all ranks have in common."""

    size: int
    transfer: Transfer
    assumed: bool = True
    """what is assumed of unknown conditions"""
    steps_left: int = STEPS
    ways: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    """what is known of the results of both ways of an assumed If, by rank and its id"""
    is_mixed: bool = False
    """whether such results are taken to be of either way"""
    numbers: Numbers = field(default_factory=Numbers)
    findings: list[Finding] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    nodes: dict[int, list[list[Node]]] = field(default_factory=dict)
    """nodes of the fragments of a plan, made ready, by the plan's id"""
    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """initializers of a plan, by its id"""
    _groups: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def value(self, tensor: Tensor) -> Value:
        """Number a tensor of which nothing but this is known."""
        known = tensor.content is not None
        return Value(tensor, self.numbers.of(tensor) if known else self.numbers.fresh())

    def constant(self, array: Array | int) -> Value:
        """Number an array that is known."""
        return self.value(Tensor.of(np.asarray(array)))

    def count(self, steps: int) -> None:
        """Take note of steps. Raises Exhausted."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise Exhausted

    def group(
        self, step: Communicate | ParallelFor, mesh: Mesh | None, rank: int
    ) -> tuple[int, ...]:
        """Return the ranks of a node's group, in group order. Raises ModelError."""
        key = id(step), rank
        if key not in self._groups:
            try:
                self._groups[key] = members(step.attributes, mesh, rank, self.size)
            except ModelError as error:
                where = f"rank {rank}, {step.op} {step.node_name!r}"
                raise ModelError(f"{where}: {error}") from None
        return self._groups[key]
