"""Instructions, and plans made of them: values that hold neither arrays nor sessions.

Control flow with communication inside it is an instruction whose bodies are plans. What a body
reads from outside keeps its name there, and is listed among the inputs of the instruction, after
those of the node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from onnx import ModelProto

from ..opset import OPS

PEER_TO_PEER = frozenset({"Send", "Recv", "Rank", "Size"})
"""Operators that a rank may do alone; all others take every rank of their group."""


@dataclass(frozen=True)
class Compute:
    """A fragment: nodes that run together, without communication between them."""

    nodes: tuple[int, ...]
    """indices in the model's graph.node, in an order in which they can run"""
    inputs: tuple[str, ...]
    """what they read that neither they nor initializers give"""
    outputs: tuple[str, ...]
    """what others read of theirs"""


class _Labelled:
    """What has an operator and a name."""

    op: str
    node_name: str

    @property
    def label(self) -> str:
        """Its operator and name, for a message."""
        return f"{self.op} {self.node_name!r}"


@dataclass(frozen=True)
class Communicate(_Labelled):
    """One communication node."""

    op: str
    node_name: str
    inputs: tuple[str, ...]
    """as in the node; "" is an absent one"""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """with defaults"""


@dataclass(frozen=True)
class Branch(_Labelled):
    """An If whose branches communicate."""

    op: str = field(default="If", init=False)

    node_name: str
    inputs: tuple[str, ...]
    """the condition, then what the branches capture"""
    outputs: tuple[str, ...]
    then_body: Plan
    else_body: Plan

    @property
    def bodies(self) -> tuple[Plan, ...]:
        return self.then_body, self.else_body


@dataclass(frozen=True)
class Repeat(_Labelled):
    """A Loop whose body communicates."""

    op: str = field(default="Loop", init=False)

    node_name: str
    inputs: tuple[str, ...]
    """trip count and condition ("" where absent), values carried, then what the body captures"""
    outputs: tuple[str, ...]
    """the carried values at the end, then what the iterations made, stacked"""
    body: Plan
    """takes the iteration, a condition and the carried values; gives a condition, the carried
    values, and what is stacked"""
    carried: int
    """how many values are carried"""
    stops: bool
    """whether the body may end the loop; it never does where it hands its condition on"""

    @property
    def bodies(self) -> tuple[Plan, ...]:
        return (self.body,)


@dataclass(frozen=True)
class Scan(_Labelled):
    """A Scan whose body communicates."""

    op: str = field(default="Scan", init=False)

    node_name: str
    inputs: tuple[str, ...]
    """states, tensors to walk along, then what the body captures"""
    outputs: tuple[str, ...]
    """the states at the end, then what the iterations made, stacked"""
    body: Plan
    """takes the states and an element of each tensor; gives the states, and what is stacked"""
    states: int
    """how many states there are"""
    input_dims: tuple[int, ...]
    """the dim along which each tensor is walked"""
    input_reversed: tuple[bool, ...]
    """whether from its end to its start"""
    output_dims: tuple[int, ...]
    """the dim along which each result is stacked"""
    output_reversed: tuple[bool, ...]
    """whether the last iteration comes first"""

    @property
    def bodies(self) -> tuple[Plan, ...]:
        return (self.body,)


@dataclass(frozen=True)
class ParallelFor(_Labelled):
    """A body for each id below a count, the ids dealt to the ranks of a group."""

    op: str = field(default="ParallelFor", init=False)

    node_name: str
    inputs: tuple[str, ...]
    """the count, what the body is given beside its id, then what it captures"""
    outputs: tuple[str, ...]
    body: Plan
    """takes the id, and what else it is given"""
    returns: Literal["first", "concat"]
    """whether a result is that of id 0, or those of all ids along `dim`"""
    dim: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """the group, as in Communicate"""

    @property
    def bodies(self) -> tuple[Plan, ...]:
        return (self.body,)


Control = Branch | Repeat | Scan | ParallelFor
Instruction = Compute | Communicate | Control


@dataclass(frozen=True)
class Plan:
    """The instructions of one rank, and the model that they speak of.

    The plan of a body speaks of a model of its own, that holds the initializers which it reads.
    """

    model: ModelProto
    inputs: tuple[str, ...]
    """of a body the formal ones"""
    outputs: tuple[str, ...]
    constants: tuple[str, ...]
    """initializers that an instruction other than a fragment reads, or that are outputs"""
    instructions: tuple[Instruction, ...]
    captured: tuple[str, ...] = ()
    """of a body: the values outside that it reads, under their own names"""

    @property
    def effects(self) -> tuple[Communicate | ParallelFor, ...]:
        """What sends, receives, or waits for others, in bodies too."""
        return tuple(
            step
            for step in every_step(self)
            if isinstance(step, ParallelFor)
            or (isinstance(step, Communicate) and OPS[step.op].is_effect)
        )

    @property
    def communications(self) -> tuple[Communicate, ...]:
        """The communication nodes, those in bodies among them."""
        return tuple(step for step in every_step(self) if isinstance(step, Communicate))

    @property
    def collectives(self) -> tuple[Communicate | ParallelFor, ...]:
        """What takes all ranks of a group, in bodies too, so that none may be there alone."""
        return tuple(
            step
            for step in every_step(self)
            if isinstance(step, ParallelFor)
            or (isinstance(step, Communicate) and step.op not in PEER_TO_PEER)
        )

    @property
    def is_collective(self) -> bool:
        return bool(self.collectives)

    @property
    def is_effect(self) -> bool:
        """Whether something in it sends, receives, or waits for others."""
        return bool(self.effects)

    def without_weights(self) -> Plan:
        """Return the plan without its models: what remains to be held while it runs."""
        steps = tuple(_without_weights(step) for step in self.instructions)
        return replace(self, model=ModelProto(), instructions=steps)

    def reaching(self, inputs: Collection[str], outputs: Collection[str]) -> tuple[int, ...]:
        """Return the numbers of the instructions that it takes to make `outputs` of `inputs`.

        Messages between two ranks are kept always, in bodies too: neither can know what the other
        needs.
        """
        needed, kept = set(outputs).difference(inputs), list[int]()
        for k, step in reversed(list(enumerate(self.instructions))):
            if _holds_messages(step) or not needed.isdisjoint(step.outputs):
                kept.append(k)
                needed |= set(step.inputs).difference(inputs)
        return tuple(reversed(kept))

    @cached_property
    def last_uses(self) -> tuple[frozenset[str], ...]:
        """The values that nothing reads after each instruction; outputs are never among them."""
        kept = set(self.outputs)
        dropped = list[frozenset[str]]()
        for step in reversed(self.instructions):
            here = {name for name in (*step.inputs, *step.outputs) if name} - kept
            dropped.append(frozenset(here))
            kept |= here
        return tuple(reversed(dropped))


def bodies_of(step: Instruction) -> tuple[Plan, ...]:
    """Return the plans that an instruction holds."""
    return () if isinstance(step, Compute | Communicate) else step.bodies


def every_step(plan: Plan) -> Iterator[Instruction]:
    """Yield the instructions of a plan, each followed by those of its bodies."""
    for step in plan.instructions:
        yield step
        for body in bodies_of(step):
            yield from every_step(body)


def _holds_messages(step: Instruction) -> bool:
    """Say whether an instruction sends to or receives from a single rank."""
    inside = (part for body in bodies_of(step) for part in every_step(body))
    parts = (part for part in (step, *inside) if isinstance(part, Communicate))
    return any(part.op in ("Send", "Recv") for part in parts)


def outline(plan: Plan) -> str:
    """Return the control flow around collectives as text, with these; "" for none."""
    controls = (step for step in every_step(plan) if isinstance(step, Control))
    return " ".join(_outlined(step) for step in controls if _meets(step))


def _meets(step: Control) -> bool:
    """Say whether ranks come together in a step."""
    return isinstance(step, ParallelFor) or any(body.is_collective for body in step.bodies)


def _outlined(step: Control) -> str:
    bodies = [[(part.op, part.attributes) for part in body.collectives] for body in step.bodies]
    return f"{step.op} {bodies}"


def _without_weights(step: Instruction) -> Instruction:
    if isinstance(step, Compute | Communicate):
        return step
    if isinstance(step, Branch):
        return replace(
            step,
            then_body=step.then_body.without_weights(),
            else_body=step.else_body.without_weights(),
        )
    return replace(step, body=step.body.without_weights())
