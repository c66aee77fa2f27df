"""A plan: what one rank does, instruction by instruction, to run a graph that communicates.

A value: it names nodes and tensors, and holds neither arrays nor sessions. Communication keeps the
order of the graph. Every other node runs as early as it can: at level k, where k communications
come before the latest one that it depends on, that one included. The nodes of one level make one
fragment, so that a graph with n communications has at most n + 1 fragments, and what does not
depend on a communication is done before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, inliner

from .errors import ModelError
from .graph import lowered
from .nodes import label, references, subgraphs
from .opset import OPS, attributes, is_ours
from .ordering import stable_order
from .states import ancestors, states_of


@dataclass(frozen=True)
class Compute:
    """A fragment: nodes that run together, without communication between them."""

    nodes: tuple[int, ...]
    """indices in the model's graph.node, in an order in which they can run"""
    inputs: tuple[str, ...]
    """what they read that neither they nor initializers give"""
    outputs: tuple[str, ...]
    """what others read of theirs"""


@dataclass(frozen=True)
class Communicate:
    """One communication node."""

    op: str
    node_name: str
    inputs: tuple[str, ...]
    """as in the node; "" is an absent one"""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """with defaults"""


Instruction = Compute | Communicate

BORDER = -1
"""The level of what cuts states that are fed whole: before all else, and it may be left out."""


@dataclass(frozen=True)
class Plan:
    """The instructions of one rank, and the model that they speak of."""

    model: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...]
    """initializers that an instruction other than a fragment reads, or that are outputs"""
    instructions: tuple[Instruction, ...]

    @property
    def communications(self) -> tuple[Communicate, ...]:
        return tuple(step for step in self.instructions if isinstance(step, Communicate))

    def without_weights(self) -> Plan:
        """Return the plan without its model: what remains to be held while it runs."""
        return replace(self, model=ModelProto())

    def reaching(self, inputs: Collection[str], outputs: Collection[str]) -> tuple[int, ...]:
        """Return the numbers of the instructions that it takes to make `outputs` of `inputs`.

        Messages between two ranks are kept always: neither can know what the other needs.
        """
        needed, kept = set(outputs).difference(inputs), list[int]()
        for k, step in reversed(list(enumerate(self.instructions))):
            is_message = isinstance(step, Communicate) and step.op in ("Send", "Recv")
            if is_message or not needed.isdisjoint(step.outputs):
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


def communicates(model: ModelProto) -> bool:
    """Say whether a model holds communication nodes, in bodies and functions too."""
    bodies: list[Iterable[NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    return any(_is_or_holds_ours(node) for nodes in bodies for node in nodes)


def _is_or_holds_ours(node: NodeProto) -> bool:
    return is_ours(node) or _holds_ours(node)


def _holds_ours(node: NodeProto) -> bool:
    return any(_is_or_holds_ours(inner) for body in subgraphs(node) for inner in body.node)


def build_plan(model: ModelProto) -> Plan:
    """Plan one rank's run of a model.

    Nodes may be in any order. Raises ModelError for a cycle, a value that nothing makes, a
    communication node that onnx would refuse, and one inside If, Loop or Scan.
    """
    model = _prepared(model)
    return _Planner(model).plan()


def _prepared(model: ModelProto) -> ModelProto:
    """Inline functions that communicate; bring a newer opset down to what onnxruntime reads."""
    if any(_communicates_inside(function) for function in model.functions):
        model = inliner.inline_local_functions(model)
    return lowered(model)


def _communicates_inside(function: FunctionProto) -> bool:
    return any(map(_is_or_holds_ours, function.node))


class _Planner:
    """What is known of a graph while its plan is made."""

    def __init__(self, model: ModelProto) -> None:
        self.model, self.nodes = model, model.graph.node
        self.states = states_of(model)
        self.weights = {tensor.name for tensor in model.graph.initializer}
        self.weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
        self.inputs = tuple(v.name for v in model.graph.input if v.name not in self.weights)
        self.outputs = tuple(value.name for value in model.graph.output)
        self.reads = [tuple(dict.fromkeys(references(node))) for node in self.nodes]
        self.producer = {
            name: k for k, node in enumerate(self.nodes) for name in node.output if name
        }
        self._check()
        order = stable_order(self.nodes)
        self.steps = {k: _communicate(self.nodes[k]) for k in order if is_ours(self.nodes[k])}
        self.effects = [k for k, step in self.steps.items() if OPS[step.op].is_effect]
        self.needed = self._needed()
        self.order = [k for k in order if k in self.needed]
        self.levels = self._levels()

    def _check(self) -> None:
        """Raise ModelError for what cannot be planned."""
        known = self.weights | set(self.inputs) | set(self.producer)
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if missing := [name for name in reads if name not in known]:
                raise ModelError(f"{label(node)} reads {missing[0]!r}, which nothing makes")
            if _holds_ours(node):
                raise ModelError(
                    f"{label(node)} communicates inside its body, which is not supported yet; "
                    "move the communication out of the body"
                )
        if missing := [name for name in self.outputs if name not in known]:
            raise ModelError(f"nothing makes the output {missing[0]!r}")

    def _needed(self) -> set[int]:
        """Return the nodes that an output or a communication depends on."""
        todo = [*self.effects, *(self.producer[n] for n in self.outputs if n in self.producer)]
        needed = set[int]()
        while todo:
            k = todo.pop()
            if k not in needed:
                needed.add(k)
                todo += [self.producer[name] for name in self.reads[k] if name in self.producer]
        return needed

    def _levels(self) -> dict[int, int]:
        """Return the level of every compute node."""
        position = {k: level for level, k in enumerate(self.effects)}
        ready: dict[str, int] = {}
        levels: dict[int, int] = {}
        borders = self._borders()
        for k in self.order:
            level = max((0, *(ready.get(name, 0) for name in self.reads[k])))
            level = BORDER if k in borders else level
            if k not in self.steps:
                levels[k] = level
            ready |= dict.fromkeys(
                self.nodes[k].output, position[k] + 1 if k in position else level
            )
        return levels

    def _borders(self) -> set[int]:
        """Return the nodes that cut states: a fragment of their own, which can be left out."""
        return {
            k
            for state in self.states
            for k in ancestors(self.reads, self.producer, state.local_input)
        }

    def plan(self) -> Plan:
        fragments = self._fragments()
        instructions: list[Instruction] = [
            step
            for k, step in self.steps.items()
            if k in self.needed and not OPS[step.op].is_effect
        ]
        for level in range(BORDER, len(self.effects) + 1):
            if level in fragments:
                instructions.append(fragments[level])
            if 0 <= level < len(self.effects):
                instructions.append(self.steps[self.effects[level]])
        constants = tuple(sorted(self._read_outside & self.weights))
        return Plan(self.model, self.inputs, self.outputs, constants, tuple(instructions))

    @cached_property
    def _read_outside(self) -> set[str]:
        """The names that communications read, and the outputs."""
        read = {name for step in self.steps.values() for name in step.inputs if name}
        return read | set(self.outputs) | {state.local_output for state in self.states}

    def _fragments(self) -> dict[int, Compute]:
        """Return the fragment of each level that has one.

        A Constant goes to every fragment that reads it: shapes and axes that come from another
        fragment would be unknown to onnxruntime while it optimises.
        """
        members: dict[int, set[int]] = {}
        given = {name for name in self._read_outside if self.producer.get(name) in self.levels}
        for k, level in self.levels.items():
            if self._is_constant(k):
                if given.intersection(self.nodes[k].output):
                    members.setdefault(0, set()).add(k)
                continue
            members.setdefault(level, set()).add(k)
            for name in self.reads[k]:
                maker = self.producer.get(name)
                if maker in self.levels and self._is_constant(maker):
                    members[level].add(maker)
                elif maker in self.levels and self.levels[maker] != level:
                    given.add(name)
        return {level: self._fragment(nodes, given, level) for level, nodes in members.items()}

    def _fragment(self, nodes: set[int], given: set[str], level: int) -> Compute:
        ordered = tuple(k for k in self.order if k in nodes)
        made = {name for k in ordered for name in self.nodes[k].output}
        read = dict.fromkeys(name for k in ordered for name in self.reads[k])
        return Compute(
            ordered,
            tuple(name for name in read if name not in made and name not in self.weights),
            tuple(
                name
                for k in ordered
                for name in self.nodes[k].output
                if name in given and (level == 0 or not self._is_constant(k))
            ),
        )

    def _is_constant(self, k: int) -> bool:
        return self.nodes[k].op_type == "Constant" and self.nodes[k].domain in ("", "ai.onnx")


def _communicate(node: NodeProto) -> Communicate:
    try:
        values = attributes(node)
    except ValueError as error:
        raise ModelError(f"{label(node)}: {error}") from None
    op = OPS[node.op_type]
    needed = (op.operand != "none") + (op.peer is not None)
    given = [*node.input, *[""] * needed][:needed]
    if "" in given[op.operand == "optional" :]:
        raise ModelError(
            f"{label(node)}: expected {needed} inputs before the tokens, got {list(node.input)!r}"
        )
    return Communicate(
        node.op_type,
        node.name or label(node),
        (*given, *node.input[needed:]),
        tuple(node.output),
        values,
    )
