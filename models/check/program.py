"""What one rank communicates, in order: its plan run on what is known instead of on data.

Control flow is followed where conditions and trip counts are known, as those that come from Rank,
Size and constants are (flow.py has the rest).

Unknown values have numbers: what a node makes of the same values is the same, on whatever rank,
and so is what AllReduce, AllGather and Broadcast give. The negation of a bool has the negative
number, so that whatever is assumed of one holds for the other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import NamedTuple

from onnx import NodeProto, TensorProto, numpy_helper

from ..errors import ModelError
from ..graph import is_fed_whole
from ..mesh import Mesh
from ..opset import OPS
from ..plan import Communicate, Compute, Control, Plan
from ..plan.control import name_of
from . import flow
from .alone import flaws
from .events import Event, Events, Shared, Value
from .findings import Finding
from .transfer import AI_ONNX, Node
from .values import UNKNOWN, Tensor, is_small

Scope = dict[str, Value]

ABSENT = Value(UNKNOWN, 0)
TRUE = Value(Tensor(TensorProto.BOOL, (), b"\1"), 0)


class Reader(NamedTuple):
    """Who reads a value, for a finding."""

    op: str
    node: str

    @classmethod
    def of(cls, proto: NodeProto) -> Reader:
        return cls(proto.op_type, name_of(proto))


class Program:
    """One rank's run of a plan on what is known."""

    def __init__(self, plan: Plan, rank: int, mesh: Mesh | None, shared: Shared) -> None:
        self.plan, self.rank, self.mesh, self.shared = plan, rank, mesh, shared
        self.concerned: list[set[int]] = []
        """of each node with bodies that it is inside of, the ranks that communicate there"""
        self.is_fed_whole = is_fed_whole(plan.model)

    def events(self) -> Events:
        """Yield what it communicates, and take what comes of it.

        Raises ModelError for a group that lacks this rank and for a token that is none, Exhausted.
        """
        fed = (value for value in self.plan.model.graph.input if value.name in self.plan.inputs)
        owner = None if self.is_fed_whole else self.rank
        given = {v.name: self._named(Tensor.declared(v.type), v.name, owner) for v in fed}
        yield from self.run(self.plan, self._scope(self.plan, given))

    def run(self, plan: Plan, scope: Scope) -> Events:
        """Carry out the instructions of a plan or of a body."""
        for step, nodes in zip(plan.instructions, self._nodes(plan), strict=True):
            match step:
                case Compute():
                    self._compute(plan, nodes, scope)
                case Communicate():
                    yield from self._communicate(step, scope)
                case _:
                    self.concerned.append(set())
                    yield from flow.FOLLOW[type(step)](self, step, scope)
                    self.concerned.pop()

    def body(
        self, step: Control, body: Plan, given: Iterable[Value], scope: Scope
    ) -> Generator[Event, Value, list[Value]]:
        """Carry out the body of a step; return its outputs."""
        self.shared.count(1)
        captured = {name: self.read(scope, name, step) for name in body.captured}
        inner = self._scope(body, captured | dict(zip(body.inputs, given, strict=True)))
        yield from self.run(body, inner)
        return [self.read(inner, name, step) for name in body.outputs]

    def concern(self, ranks: Iterable[int]) -> None:
        """Note that these ranks communicate in the bodies that it is inside of."""
        for noted in self.concerned:
            noted.update(ranks)

    def read(self, scope: Scope, name: str, step: Communicate | Control) -> Value:
        """Look a value up; one that is not there yet is a finding."""
        return scope.get(name) or self._unready(scope, name, Reader(step.op, step.node_name))

    def _unready(self, scope: Scope, name: str, reader: Reader) -> Value:
        if not name:
            return ABSENT
        text = f"reads {name!r}, which nothing before it gives"
        self.shared.findings.append(Finding("unready", self.rank, *reader, text))
        scope[name] = self.shared.value(UNKNOWN)
        return scope[name]

    def _scope(self, plan: Plan, given: Mapping[str, Value]) -> Scope:
        weights = self.shared.weights.get(id(plan))
        if weights is None:
            graph = plan.model.graph
            weights = {tensor.name: _weight(tensor) for tensor in graph.initializer}
            weights |= {
                tensor.values.name: Tensor(tensor.values.data_type, tuple(tensor.dims))
                for tensor in graph.sparse_initializer
            }
            self.shared.weights[id(plan)] = weights
        # Where ranks share a plan they share its weights; a part of a weight has the name of the
        # whole on every rank, and shard decides on nothing that only a part goes into.
        owner = None if self.is_fed_whole else id(plan)
        own = {name: self._named(tensor, name, owner) for name, tensor in weights.items()}
        return {**own, **given}

    def _named(self, tensor: Tensor, name: str, owner: int | None) -> Value:
        """Number an input or weight: the same for the same name of the same owner."""
        if tensor.content is not None:
            return self.shared.value(tensor)
        return Value(tensor, self.shared.numbers.of("named", name, owner))

    def _nodes(self, plan: Plan) -> list[list[Node]]:
        found = self.shared.nodes.get(id(plan))
        if found is None:
            every = self.shared.transfer.prepared(plan.model)
            found = [
                [every[k] for k in step.nodes] if isinstance(step, Compute) else []
                for step in plan.instructions
            ]
            self.shared.nodes[id(plan)] = found
        return found

    def _compute(self, plan: Plan, nodes: list[Node], scope: Scope) -> None:
        numbers, transfer = self.shared.numbers, self.shared.transfer
        self.shared.count(len(nodes))
        for node in nodes:
            proto = node.proto
            read = [
                scope.get(name)
                or self._unready(scope, name, Reader(proto.op_type, name_of(proto)))
                for name in node.reads
            ]
            made = transfer.outputs(node, tuple([value.tensor for value in read]), plan.model)
            inputs = tuple([value.number for value in read])
            for k, (name, tensor) in enumerate(zip(node.makes, made, strict=True)):
                if tensor.content is not None:
                    number = numbers.of(tensor)
                elif proto.op_type == "Not" and proto.domain in AI_ONNX:
                    number = -inputs[0]
                elif node.draws:
                    number = numbers.fresh()
                else:
                    number = numbers.of(node.kind, k, inputs)
                scope[name] = Value(tensor, number)

    def _communicate(self, step: Communicate, scope: Scope) -> Events:
        self.shared.count(1)
        op, group = OPS[step.op], self.shared.group(step, self.mesh, self.rank)
        if not op.is_effect:
            number = group.index(self.rank) if step.op == "Rank" else len(group)
            scope[step.outputs[0]] = self.shared.constant(number)
            return
        read = [self.read(scope, name, step) if name else None for name in step.inputs]
        operand = read.pop(0) if op.operand != "none" else None
        peer = read.pop(0) if op.peer is not None else None
        for name, token in zip(step.inputs[len(step.inputs) - len(read) :], read, strict=True):
            _check_token(self.rank, step, name, token or ABSENT)
        event = Event(self.rank, step, group, operand)
        if op.peer is not None and peer is not None:
            event = event._replace(peer=self._peer(event, op.peer, peer.tensor.number))
        self.shared.findings.extend(flaws(event))
        self.concern(group if event.peer is None else (event.peer,))
        made = yield event
        results = [made, TRUE] if op.gives == "Y" else [TRUE]
        scope.update(zip(step.outputs, results, strict=False))

    def _peer(self, event: Event, name: str, number: int | None) -> int | None:
        if number is None or 0 <= number < len(event.group):
            return None if number is None else event.group[number]
        text = f"expected {name} to be a rank below {len(event.group)}, got {number}"
        self.shared.findings.append(event.finding("mismatch", text))
        return None


def _weight(tensor: TensorProto) -> Tensor:
    known = Tensor(tensor.data_type, tuple(tensor.dims))
    if tensor.data_location == TensorProto.EXTERNAL or not is_small(known):
        return known
    try:
        return Tensor.of(numpy_helper.to_array(tensor))
    except (TypeError, ValueError):  # its elements were left out
        return known


def _check_token(rank: int, step: Communicate, name: str, token: Value) -> None:
    dtype, shape, _ = token.tensor
    if dtype not in (None, TensorProto.BOOL) or shape not in (None, ()):
        raise ModelError(
            f"rank {rank}, {step.op} {step.node_name!r}: expected a token, a bool scalar that "
            f"another communication node gives, got {name!r}, {Tensor(dtype, shape)}"
        )
