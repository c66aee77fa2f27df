"""Runs a plan: fragments on onnxruntime, and between them the communication nodes.

Values are numpy arrays. A collective's operand is the very memory that a fragment wrote, and an
AllReduce works in place where nobody else reads its operand. Values are dropped after their last
use. Bodies of control flow are programs of their own, which see what they capture.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnxruntime
from onnx import TypeProto

from ..models.opset import OPS
from ..models.plan import Communicate, Compute, Control, Instruction, Plan
from .actions import ACTIONS, Call
from .arrays import Array
from .control import CONTROL, Body
from .fragment import Fragment, first_line
from .groups import Group, Groups
from .messages import Outbox
from .trace import Span, Trace

Values = dict[str, Any]


class NodeError(RuntimeError):
    """Report what failed in the midst of a run: which rank, node, operator and shapes."""


@dataclass
class Running:
    """What one run of a plan shares with its bodies."""

    options: onnxruntime.RunOptions | None = None
    outbox: Outbox = field(default_factory=Outbox)
    trace: Trace = field(default_factory=Trace)


@dataclass
class Program:
    """A plan that is ready to run on this rank."""

    plan: Plan
    parts: list[Fragment | tuple[Program, ...] | None]
    """by instruction: a fragment, the bodies of control flow, None for communication"""
    constants: Mapping[str, Array]
    groups: Groups
    path: tuple[str, ...] = ()
    """of a body: the nodes that it is inside of"""
    types: tuple[TypeProto | None, ...] = ()
    """of a body: those of its outputs"""
    meets: tuple[Group, ...] = ()
    """of a body: the groups whose ranks have to agree on whether they run it"""

    def between(self, inputs: Collection[str], outputs: Collection[str]) -> Program:
        """Return what makes `outputs` of `inputs`, on the same sessions."""
        kept = self.plan.reaching(inputs, outputs)
        plan = replace(
            self.plan,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            instructions=tuple(self.plan.instructions[k] for k in kept),
        )
        return replace(self, plan=plan, parts=[self.parts[k] for k in kept])

    def run(
        self,
        feeds: Mapping[str, Any],
        options: onnxruntime.RunOptions | None = None,
        *,
        is_traced: bool = False,
    ) -> tuple[Values, Trace]:
        """Run once; return the outputs by name, and where the time went.

        `is_traced` keeps a span of each step. Raises NodeError.
        """
        running = Running(options, trace=Trace(spans=[] if is_traced else None))
        try:
            made = self.walk(feeds, running)
            _finish(running)
        except BaseException:
            running.outbox.abandon()
            raise
        # The caller gets arrays of his own: no feed, no weight, and none of them twice.
        taken = {id(array) for array in (*feeds.values(), *self.constants.values())}
        outputs: Values = {}
        for name, value in zip(self.plan.outputs, made, strict=True):
            is_shared = isinstance(value, np.ndarray) and id(value) in taken
            outputs[name] = value.copy() if is_shared else value
            taken.add(id(value))
        return outputs, running.trace

    def walk(self, given: Mapping[str, Any], running: Running) -> list[Any]:
        """Carry out the instructions, and return the outputs in their order.

        An output may be an array that was given, or a constant.
        """
        values: Values = {**self.constants, **given}
        # What must not be written to: arrays of others, and those that bodies hand out.
        fixed = {id(value) for value in values.values()}
        steps = zip(self.plan.instructions, self.parts, self.plan.last_uses, strict=True)
        for step, part, dropped in steps:
            with _Context(self, step, values):
                if isinstance(part, Fragment):
                    made = _compute(part, values, running)
                elif isinstance(step, Communicate):
                    made = self._communicate(step, values, dropped, fixed, running)
                else:
                    made = self._control(step, part, values, running)
                    fixed |= {id(value) for value in made}
            values |= {k: v for k, v in zip(step.outputs, made, strict=False) if k}
            for name in dropped:
                values.pop(name, None)
        return [values[name] for name in self.plan.outputs]

    def _communicate(
        self,
        step: Communicate,
        values: Values,
        dropped: Collection[str],
        fixed: Collection[int],
        running: Running,
    ) -> Sequence[Any]:
        op, trace, group = OPS[step.op], running.trace, self.groups.group(step)
        comm = group.comm
        operands: list[Any] = [values[name] if name else None for name in step.inputs]
        x = operands[0] if op.operand != "none" else None
        peer = int(operands[op.operand != "none"]) if op.peer is not None else 0
        is_free = op.operand != "none" and step.inputs[0] in dropped and id(x) not in fixed
        is_free = is_free and not running.outbox.holds(x)
        start, before = time.perf_counter(), comm.bytes_sent
        call = Call(comm, x, peer, is_free, step.attributes, running.outbox)
        made = ACTIONS[step.op](call)
        if op.is_effect:
            end, sent = time.perf_counter(), comm.bytes_sent - before
            trace.communicated(step.op, end - start, sent)
            if trace.spans is not None:
                trace.spans.append(_span(step, group, call, made, start, end, sent))
        return [*([] if made is None else [made]), np.array(True)]

    def _control(
        self, step: Instruction, bodies: object, values: Values, running: Running
    ) -> Sequence[Any]:
        assert isinstance(step, Control) and isinstance(bodies, tuple)
        calls: Sequence[Body] = [_BodyCall(body, values, running) for body in bodies]
        given = [values[name] if name else None for name in step.inputs]
        start = time.perf_counter()
        made = CONTROL[type(step)](step, calls, given, self.groups, running.trace)
        if running.trace.spans is not None:
            span = Span("control", step.label, start, time.perf_counter(), step.op)
            running.trace.spans.append(span)
        return made


@dataclass
class _BodyCall:
    """A body with what it captures: called with its formal inputs."""

    program: Program
    values: Values
    running: Running

    @property
    def meets(self) -> Sequence[Group]:
        return self.program.meets

    @property
    def types(self) -> Sequence[TypeProto | None]:
        return self.program.types

    def __call__(self, *given: Any) -> list[Any]:
        plan = self.program.plan
        captured = {name: self.values[name] for name in plan.captured}
        formal = dict(zip(plan.inputs, given, strict=True))
        return self.program.walk(captured | formal, self.running)


def _compute(fragment: Fragment, values: Values, running: Running) -> Sequence[Any]:
    start = time.perf_counter()
    made = fragment.run(values, running.options)
    end, trace = time.perf_counter(), running.trace
    trace.compute_seconds += end - start
    if trace.spans is not None:
        trace.spans.append(Span("fragment", ", ".join(fragment.outputs), start, end))
    return made


def _span(
    step: Communicate,
    group: Group,
    call: Call,
    made: Array | None,
    start: float,
    end: float,
    sent: int,
) -> Span:
    size = max((array.nbytes for array in (call.x, made) if array is not None), default=0)
    peer = None if OPS[step.op].peer is None else group.ranks[call.peer]
    return Span(
        "communication", step.label, start, end, step.op, size, sent, group.ranks, peer,
        step.attributes.get("tag", 0),
    )  # fmt: skip


def _finish(running: Running) -> None:
    """Wait for the sends, whose time it is."""
    start = time.perf_counter()
    running.outbox.complete()
    end, trace = time.perf_counter(), running.trace
    if "Send" in trace.operators:
        trace.operators["Send"].seconds += end - start
        if trace.spans is not None:
            trace.spans.append(Span("flush", "until all has left", start, end))


class _Context:
    """While it is entered, an error gets the rank, the node and the shapes put before it."""

    def __init__(self, program: Program, step: Instruction, values: Values) -> None:
        self.program, self.step, self.values = program, step, values

    def __enter__(self) -> None:
        """Nothing is looked up before an error comes."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, NodeError):
            return
        path = self.program.path
        if not isinstance(self.step, Compute):
            path = (*path, self.step.label)
        where = f"rank {self.program.groups.rank}" + (", " if path else "") + " > ".join(path)
        given = (self.values.get(name) for name in self.step.inputs)
        shapes = ", ".join(f"{x.dtype} {x.shape}" for x in given if isinstance(x, np.ndarray))
        raise NodeError(f"{where} on {shapes or 'nothing'}: {first_line(error)}") from error
