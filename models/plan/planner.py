"""The plan of a model.

Communication keeps the order of the graph, and so does control flow with communication inside.
Every other node runs as early as it can: at level k, where k communications come before the latest
one that it depends on, that one included. The nodes of one level make one fragment, so that a
graph with n communications has at most n + 1 fragments, and what does not depend on a
communication is done before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property

from onnx import GraphProto, ModelProto, NodeProto

from ..calls import check_recursion, inlined
from ..dialects.recognition import is_foreign
from ..dialects.translation import translated
from ..errors import ModelError
from ..graph import lowered
from ..nodes import label, references, subgraphs
from ..opset import OPS, attributes, is_ours
from ..ordering import stable_order
from ..parallel import PARALLEL_FOR
from ..states import ancestors, states_of
from .bodies import Surroundings, is_constant
from .control import control, name_of
from .instructions import Communicate, Compute, Control, Instruction, Plan
from .seal import check_seal, seal, seal_of, set_seal

BORDER = -1
"""The level of what cuts states that are fed whole: before all else, and it may be left out."""


def communicates(model: ModelProto) -> bool:
    """Say whether a model holds communication nodes, in bodies and functions too."""
    bodies: list[Iterable[NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    return any(communicates_within(node) for nodes in bodies for node in nodes)


def communicates_within(node: NodeProto) -> bool:
    """Say whether a node communicates, or one in its bodies does; Rank and Size count too."""
    return is_ours(node) or is_foreign(node) or _holds_ours(node)


def _holds_ours(node: NodeProto) -> bool:
    return any(communicates_within(inner) for body in subgraphs(node) for inner in body.node)


def build_plan(model: ModelProto) -> Plan:
    """Plan one rank's run of a model.

    Nodes may be in any order. Raises ModelError for a cycle, a value that nothing makes, a
    communication node that onnx would refuse, a body that does not fit its node, and a plan that
    is not that of the model's seal.
    """
    plan = _Planner(_prepared(model)).plan()
    check_seal(plan)
    return plan


def check_whole(model: ModelProto) -> None:
    """Raise ModelError for a model that is not what its seal says, if it has one."""
    if seal_of(model) is not None:
        build_plan(model)


def sealed(model: ModelProto) -> ModelProto:
    """Put the seal of its plan on a model that communicates; return it. Raises ModelError."""
    set_seal(model, None)
    if communicates(model):
        set_seal(model, seal(build_plan(model)))
    return model


def _prepared(model: ModelProto) -> ModelProto:
    """Inline functions if the model communicates; bring a newer opset down to onnxruntime's.

    Other dialects are rewritten first. A proof sees what functions draw, and what they make.
    """
    check_recursion(model)
    model = translated(model)
    if communicates(model):
        model = inlined(model)
    return lowered(model)


class _Planner:
    """What is known of a graph while its plan is made."""

    def __init__(self, model: ModelProto, outside: Collection[str] = ()) -> None:
        """Look at a model, or at a body: `outside` are then the names that it may capture."""
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
        self.known = self.weights | set(self.inputs) | set(self.producer)
        self.captured = self._captured(outside)
        self.outside = self.known | set(self.captured)
        order = stable_order(self.nodes)
        self.steps = {k: self._step(k) for k in order if communicates_within(self.nodes[k])}
        self.effects = [k for k, step in self.steps.items() if is_effect(step)]
        self.needed = self._needed()
        self.order = [k for k in order if k in self.needed]
        self.levels = self._levels()

    def _captured(self, outside: Collection[str]) -> tuple[str, ...]:
        """Return what is read from outside. Raises ModelError for what nothing makes."""
        captured = dict[str, None]()
        for node, reads in zip(self.nodes, self.reads, strict=True):
            for name in reads:
                if name not in self.known and name not in outside:
                    raise ModelError(f"{label(node)} reads {name!r}, which nothing makes")
                captured |= {name: None} if name not in self.known else {}
        for name in self.outputs:
            if name not in self.known and name not in outside:
                raise ModelError(f"nothing makes the output {name!r}")
            captured |= {name: None} if name not in self.known else {}
        return tuple(captured)

    def _step(self, k: int) -> Communicate | Control:
        """Return the instruction of a node that communicates."""
        node = self.nodes[k]
        if is_ours(node) and node.op_type != PARALLEL_FOR:
            return _communicate(node)
        return control(node, lambda body: self._plan_body(node, body))

    @cached_property
    def _surroundings(self) -> Surroundings:
        return Surroundings(self.model)

    def _plan_body(self, node: NodeProto, body: GraphProto) -> Plan:
        try:
            return _Planner(self._surroundings.body(body), self.outside).plan()
        except ModelError as error:
            raise ModelError(f"{label(node)} > {error}") from None

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
            step for k, step in self.steps.items() if k in self.needed and not is_effect(step)
        ]
        for level in range(BORDER, len(self.effects) + 1):
            if level in fragments:
                instructions.append(fragments[level])
            if 0 <= level < len(self.effects):
                instructions.append(self.steps[self.effects[level]])
        constants = tuple(sorted(self._read_outside & self.weights))
        return Plan(
            self.model, self.inputs, self.outputs, constants, tuple(instructions), self.captured
        )

    @cached_property
    def _read_outside(self) -> set[str]:
        """The names that communications read, and the outputs."""
        read = {name for step in self.steps.values() for name in step.inputs if name}
        return read | set(self.outputs) | {state.local_output for state in self.states}

    @cached_property
    def _place(self) -> dict[int, int]:
        """Where each node stands in the order."""
        return {k: place for place, k in enumerate(self.order)}

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
        ordered = tuple(sorted(nodes, key=self._place.__getitem__))
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
        return is_constant(self.nodes[k])


def is_effect(step: Communicate | Control) -> bool:
    """Say whether an instruction has a place in the order."""
    return not isinstance(step, Communicate) or OPS[step.op].is_effect


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
        name_of(node),
        (*given, *node.input[needed:]),
        tuple(node.output),
        values,
    )
