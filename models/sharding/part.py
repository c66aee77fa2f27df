"""What one rank runs: its graph, and which parts of the weights it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from onnx import NodeProto, ValueInfoProto

from ..bodies import every
from ..nodes import references
from ..opset import DOMAIN
from ..states import State
from ..weights import IndexSet, Weight
from .machine import Transfer


class Held(NamedTuple):
    """A weight, or the part of it, that a rank holds."""

    name: str
    weight: Weight
    kept: tuple[IndexSet, ...]
    """indices of each dim"""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(
            size if kept is None else len(kept)
            for size, kept in zip(self.weight.shape, self.kept, strict=True)
        )

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes * _count(self.shape) // (self.weight.count or 1)


@dataclass
class Part:
    """One rank's graph, its weights not read yet."""

    rank: int
    nodes: list[NodeProto] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    constants: dict[str, Weight] = field(default_factory=dict)
    value_info: dict[str, ValueInfoProto] = field(default_factory=dict)
    """sizes of what may go from one fragment to another, as far as they are known"""
    moved: list[Transfer] = field(default_factory=list)
    """what its collectives move in a run of the usual size"""
    states: tuple[State, ...] = ()
    """those that may stay on their ranks from run to run"""
    origins: list[int] = field(default_factory=list)
    """for each node the number of the site that it was written for"""
    moved_for: list[int] = field(default_factory=list)
    """for each of `moved` the number of its site"""
    given: list[Transfer] = field(default_factory=list)
    """what it moves to give the outputs to ranks that did not make them"""
    forms: dict[str, str] = field(default_factory=dict)
    """the tensor of the whole graph that a name is, or is a part of"""

    @property
    def weight_bytes(self) -> int:
        """Bytes of initializers that this rank holds when it runs."""
        weights = sum(held.nbytes for held in self.held.values())
        return weights + sum(weight.nbytes for weight in self.constants.values())

    @property
    def sent(self) -> float:
        """Bytes that the rank sends in a run of the usual size."""
        return sum(each.sent for each in (*self.moved, *self.given))

    @property
    def collectives(self) -> Counter[str]:
        """How many there are of each, those in bodies among them."""
        return Counter(node.op_type for node in every(self.nodes) if node.domain == DOMAIN)

    def pruned(self, outputs: Set[str]) -> Part:
        """Return the part without weights that nothing reads."""
        used = outputs | {name for node in self.nodes for name in references(node)}
        held = {name: held for name, held in self.held.items() if name in used}
        return replace(self, held=held)


def _count(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
