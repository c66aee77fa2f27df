"""A node as its rule sees it, and what the rule says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from ..nodes import attribute
from .axes import Axis, Conflict, Size, atoms, find, unify

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph, as far as it is known before the model runs."""

    name: str
    data_type: int
    shape: tuple[Size, ...]
    axes: tuple[Axis | None, ...]
    """one per dim; None for dims of size 1"""
    values: tuple[Array, Array] | None = None
    """contents at both settings of the symbolic dims, where they are small and known"""
    is_weight: bool = False
    has_shape: bool = True

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def value(self) -> Array | None:
        """Contents, where they do not depend on what is fed."""
        if self.values is None or not np.array_equal(*self.values):
            return None
        return self.values[0]

    @cached_property
    def atoms(self) -> list[Axis]:
        """Atoms of all dims; to be read once all rules have spoken."""
        return [atom for axis in self.axes for atom in atoms(axis)]


class Contraction(NamedTuple):
    """An axis that the node sums over: its output is then partial on each rank."""

    axis: Axis
    op: str
    """what combines the ranks' parts: sum, max, min, prod"""
    whole_unless_atom: bool
    """the rewriting needs consecutive indices"""


class Body(NamedTuple):
    """A body of control flow: what it is given, what it gives, and its nodes."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sites: tuple[Site, ...]
    times: float
    """how often it runs in a run of the usual size"""


@dataclass
class Site:
    """One node, its tensors, and what its rule finds.

    Where a node has bodies, what they give is among its inputs, and what they are given among its
    outputs, behind those of the node.
    """

    node: NodeProto
    opset: int
    inputs: list[Tensor | None]
    outputs: list[Tensor | None]
    contracted: list[Contraction] = field(default_factory=list)
    needs_whole: list[Axis] = field(default_factory=list)
    born: list[Axis] = field(default_factory=list)
    """axes of the outputs that no input has, and that the rewriting can make local"""
    dropped: list[Axis] = field(default_factory=list)
    """parts of axes that the node leaves out"""
    gathered: list[Axis] = field(default_factory=list)
    """axes of inputs that the node takes in parts, and gathers what it makes of them by itself"""
    note: str = ""
    """why dims do not pass that one would wish to; the report says it"""
    only_size: bool = False
    """the node reads sizes, never elements"""
    obstacle: str | None = None
    """why this node has no layout but the replicated one"""
    bodies: tuple[Body, ...] = ()
    """those of If, Loop and Scan"""
    times: float = 1.0
    """how often it runs in a run of the usual size; both branches of an If count"""

    @property
    def name(self) -> str:
        return self.node.name or self.node.output[0]

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def tensor(self, position: int) -> Tensor:
        """Return an input. Raises Conflict where it is absent."""
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            raise Conflict(f"input {position} is absent")
        return found

    def output(self, position: int = 0) -> Tensor:
        found = self.outputs[position]
        if found is None:
            raise Conflict(f"output {position} is absent")
        return found

    def has(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] is not None

    def constant(self, position: int) -> Array | None:
        """Return the contents of an input, None where they depend on what is fed."""
        return self.tensor(position).value if self.has(position) else None

    def dims(self, position: int, name: str = "axes") -> list[int] | None:
        """Return a list of dims, given as an attribute or, in later opsets, as an input.

        They come as non-negative numbers within the first input. None where none are given.
        Raises Conflict where they are known only when the model runs.
        """
        rank = self.tensor(0).rank
        given = self.attribute(name)
        if given is None and self.has(position):
            value = self.constant(position)
            if value is None:
                raise Conflict(f"{name} are computed when the model runs")
            given = value.reshape(-1).tolist()
        return None if given is None else [dim % rank for dim in given]

    def tie(self, a: Axis | None, b: Axis | None) -> None:
        """Say that two dims are one; dims of size 1 broadcast and are skipped."""
        if a is not None and b is not None:
            unify(a, b)

    def tie_all(self, a: Sequence[Axis | None], b: Sequence[Axis | None]) -> None:
        """Say that the dims of two tensors are the same, aligned on the right."""
        for x, y in zip(reversed(a), reversed(b), strict=False):
            self.tie(x, y)

    def whole(self, *axes: Axis | None) -> None:
        """Say that the node needs all of these dims at once."""
        self.needs_whole += [axis for axis in axes if axis is not None]

    def parameters(self, first: int = 1) -> None:
        """Say that the inputs from `first` on are sizes or places, which every rank needs whole.

        They may be data to another node, and so have an atom of this node's data.
        """
        for tensor in filter(None, self.inputs[first:]):
            self.whole(*tensor.axes)

    def contract(
        self, axis: Axis | None, op: str = "sum", whole_unless_atom: bool = False
    ) -> None:
        """Say that the node sums over a dim."""
        if axis is not None:
            self.contracted.append(Contraction(axis, op, whole_unless_atom))

    @cached_property
    def seen(self) -> set[Axis]:
        """Atoms of all inputs and outputs; to be read once all rules have spoken."""
        tensors = [tensor for tensor in (*self.inputs, *self.outputs) if tensor is not None]
        return {atom for tensor in tensors for atom in tensor.atoms}

    @property
    def exclusive(self) -> set[Axis]:
        """Atoms of which the node takes one at most in parts."""
        if self.bodies or not self.seen - self.whole_atoms:
            return set()
        return self.seen

    def passes(self, tensor: Tensor, sharded: Set[Axis]) -> bool:
        """Say whether a tensor goes into bodies or comes out of them as ranks have it."""
        return self.whole_atoms.isdisjoint(sharded & set(tensor.atoms))

    @property
    def inside(self) -> Iterator[Site]:
        """The sites in its bodies, then the site itself."""
        for body in self.bodies:
            for site in body.sites:
                yield from site.inside
        yield self

    @cached_property
    def whole_atoms(self) -> set[Axis]:
        """Atoms that may not be sharded at this node; to be read once all rules have spoken.

        Of a node with bodies each tensor passes by itself, sharded but for those that need be
        whole.

        An atom that the rule does not account for is among them: one of an input that is neither
        in an output nor contracted nor dropped, one of an output that no input has, one that
        occurs twice.
        """
        if self.obstacle is not None:
            return self.seen
        if self.bodies:
            return {atom for axis in self.needs_whole for atom in atoms(axis)}
        given = _atoms_of(self.inputs)
        made = _atoms_of(self.outputs)
        summed = {atom for entry in self.contracted for atom in atoms(entry.axis)}
        born = {atom for axis in self.born for atom in atoms(axis)}
        dropped = {atom for axis in (*self.dropped, *self.gathered) for atom in atoms(axis)}
        unaccounted = made - given - born
        if not self.only_size:
            unaccounted |= given - made - summed - dropped
        unaccounted |= summed & made
        for entry in self.contracted:
            if entry.whole_unless_atom and find(entry.axis).kind != "atom":
                unaccounted |= set(atoms(entry.axis))
        for axis in self.gathered:
            if find(axis).kind != "atom":
                unaccounted |= set(atoms(axis))
        return unaccounted | {atom for axis in self.needs_whole for atom in atoms(axis)}


def _atoms_of(tensors: Sequence[Tensor | None]) -> set[Axis]:
    return {atom for tensor in tensors if tensor is not None for atom in tensor.atoms}


def fixed(size: Size) -> int:
    """Return a size that is the same in all runs. Raises Conflict for another."""
    if not size.is_static:
        raise Conflict("a size that it depends on is known only when the model runs")
    return size.first


Tie = Callable[[Site], None]


def int64(*values: int) -> Array:
    return np.array(values, np.int64)
