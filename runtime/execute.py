"""Runs a plan: fragments on onnxruntime, and between them the communication nodes.

Values are numpy arrays. A collective's operand is the very memory that a fragment wrote, and an
AllReduce works in place where nobody else reads its operand. Values are dropped after their last
use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from onnx import helper

from ..collectives import Communicator
from ..models.opset import OPS
from ..models.plan import Communicate, Instruction, Plan
from .arrays import Array
from .fragment import Fragment, first_line
from .groups import Groups
from .messages import Outbox, receive
from .trace import Trace

Values = dict[str, Any]


class NodeError(RuntimeError):
    """Report what failed in the midst of a run: which rank, node, operator and shapes."""


class Call(NamedTuple):
    """One communication node, with its operands looked up."""

    comm: Communicator
    x: Any
    """the operand, None where it is absent"""
    peer: int
    is_free: bool
    """nobody else reads the operand: it may be overwritten"""
    attributes: Mapping[str, Any]
    outbox: Outbox

    @property
    def is_root(self) -> bool:
        return bool(self.comm.rank == self.attributes["root"])

    @property
    def out(self) -> Any:
        """The operand, if the result may take its place."""
        return self.x if self.is_free else None

    def chosen(self, *names: str) -> dict[str, Any]:
        """Return these attributes, and the algorithm."""
        return {name: self.attributes[name] for name in (*names, "algorithm")}


def _send(call: Call) -> None:
    call.outbox.send(call.comm, call.x, call.peer, call.attributes["tag"])


def _recv(call: Call) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(call.attributes["dtype"])
    shape = call.attributes.get("shape")
    return receive(call.comm, call.peer, call.attributes["tag"], dtype, shape)


def _all_reduce(call: Call) -> Array:
    return call.comm.allreduce(call.x, out=call.out, **call.chosen("op"))


def _all_gather(call: Call) -> Array:
    return call.comm.allgather(call.x, **call.chosen("dim"))


def _reduce_scatter(call: Call) -> Array:
    return call.comm.reduce_scatter(call.x, **call.chosen("op", "dim"))


def _all_to_all(call: Call) -> Array:
    return call.comm.alltoall(call.x, **call.chosen("split_dim", "concat_dim"))


def _broadcast(call: Call) -> Array:
    if not call.is_root:
        return call.comm.broadcast(None, **call.chosen("root"))
    return call.comm.broadcast(call.x, out=call.out, **call.chosen("root"))


def _scatter(call: Call) -> Array:
    return call.comm.scatter(call.x if call.is_root else None, **call.chosen("root", "dim"))


def _gather(call: Call) -> Array:
    gathered = call.comm.gather(call.x, **call.chosen("root", "dim"))
    if gathered is not None:
        return gathered
    shape = list(call.x.shape) or [1]
    shape[call.attributes["dim"]] = 0
    return np.empty(shape, call.x.dtype)


def _reduce(call: Call) -> Array:
    reduced = call.comm.reduce(call.x, **call.chosen("op", "root"))
    if reduced is not None:
        return reduced
    kept: Array = call.x if call.is_free else call.x.copy()
    return kept


def _barrier(call: Call) -> None:
    call.comm.barrier(**call.chosen())


def _rank(call: Call) -> Array:
    return np.array(call.comm.rank)


def _size(call: Call) -> Array:
    return np.array(call.comm.size)


ACTIONS: dict[str, Callable[[Call], Array | None]] = {
    "Rank": _rank, "Size": _size, "Send": _send, "Recv": _recv, "AllReduce": _all_reduce,
    "AllGather": _all_gather, "ReduceScatter": _reduce_scatter, "AllToAll": _all_to_all,
    "Broadcast": _broadcast, "Scatter": _scatter, "Gather": _gather, "Reduce": _reduce,
    "Barrier": _barrier,
}  # fmt: skip


@dataclass
class Program:
    """A plan that is ready to run on this rank."""

    plan: Plan
    fragments: list[Fragment | None]
    """by instruction; None for communication"""
    constants: Mapping[str, Array]
    groups: Groups

    def between(self, inputs: Collection[str], outputs: Collection[str]) -> Program:
        """Return what makes `outputs` of `inputs`, on the same sessions."""
        kept = self.plan.reaching(inputs, outputs)
        plan = replace(
            self.plan,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            instructions=tuple(self.plan.instructions[k] for k in kept),
        )
        return replace(self, plan=plan, fragments=[self.fragments[k] for k in kept])

    def run(
        self, feeds: Mapping[str, Any], options: onnxruntime.RunOptions | None = None
    ) -> tuple[Values, Trace]:
        """Run once; return the outputs by name, and where the time went.

        Raises NodeError.
        """
        values: Values = {**self.constants, **feeds}
        foreign = frozenset(values)  # the caller's arrays and the weights
        fixed = set(foreign)  # what must not be written to: these, and what is being sent
        outbox, trace = Outbox(), Trace()
        try:
            steps = zip(self.plan.instructions, self.fragments, self.plan.last_uses, strict=True)
            for step, fragment, dropped in steps:
                with _Context(self.groups.rank, step, values):
                    if fragment is not None:
                        self._compute(fragment, values, options, trace)
                    elif isinstance(step, Communicate):
                        self._communicate(step, values, dropped - fixed, outbox, trace)
                        if step.op == "Send":
                            fixed.add(step.inputs[0])
                for name in dropped:
                    values.pop(name, None)
            self._finish(outbox, trace)
        except BaseException:
            outbox.abandon()
            raise
        outputs = {name: values[name] for name in self.plan.outputs}
        return {k: v.copy() if k in foreign else v for k, v in outputs.items()}, trace

    def _compute(
        self,
        fragment: Fragment,
        values: Values,
        options: onnxruntime.RunOptions | None,
        trace: Trace,
    ) -> None:
        start = time.perf_counter()
        made = fragment.run(values, options)
        trace.compute_seconds += time.perf_counter() - start
        values |= dict(zip(fragment.outputs, made, strict=True))

    def _communicate(
        self, step: Communicate, values: Values, free: frozenset[str], outbox: Outbox, trace: Trace
    ) -> None:
        op, comm = OPS[step.op], self.groups.of(step)
        operands: list[Any] = [values[name] if name else None for name in step.inputs]
        x = operands[0] if op.operand != "none" else None
        peer = int(operands[op.operand != "none"]) if op.peer is not None else 0
        is_free = bool(op.operand != "none" and step.inputs[0] in free)
        start, before = time.perf_counter(), comm.bytes_sent
        made = ACTIONS[step.op](Call(comm, x, peer, is_free, step.attributes, outbox))
        if op.is_effect:
            sent = comm.bytes_sent - before
            trace.communicated(step.op, time.perf_counter() - start, sent)
        given = [] if made is None else [made]
        values |= zip(step.outputs, [*given, np.array(True)], strict=False)

    def _finish(self, outbox: Outbox, trace: Trace) -> None:
        """Wait for the sends, whose time it is."""
        start = time.perf_counter()
        outbox.complete()
        if "Send" in trace.operators:
            trace.operators["Send"].seconds += time.perf_counter() - start


class _Context:
    """While it is entered, an error gets the rank, the node and the shapes put before it."""

    def __init__(self, rank: int, step: Instruction, values: Values) -> None:
        self.rank, self.step, self.values = rank, step, values

    def __enter__(self) -> None:
        """Nothing is looked up before an error comes."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, Exception):
            return
        where = f"rank {self.rank}"
        if isinstance(self.step, Communicate):
            where += f", {self.step.op} {self.step.node_name!r}"
        given = (self.values.get(name) for name in self.step.inputs)
        shapes = ", ".join(f"{x.dtype} {x.shape}" for x in given if isinstance(x, np.ndarray))
        raise NodeError(f"{where} on {shapes or 'nothing'}: {first_line(error)}") from error
