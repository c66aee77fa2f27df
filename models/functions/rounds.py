"""The rounds of a schedule as nodes: one rank's part in a collective, as an ONNX function.

Blocks are values, which Split makes and Concat joins; a message is one block, so that its shape
travels with it and parts may be of different lengths. Blocks that no rank ever parts are one: a
tree sends whole tensors. Sends of a round come before its receives, and do not block.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
from onnx import AttributeProto, FunctionProto, TensorProto, helper

from ...collectives.schedule import Blocks, Load, Recv, Round, Send
from ..opset import DIMS, GROUP
from ..opset import DOMAIN as OURS
from .lowering import FLAT, KEY, OPERATORS, Lowering
from .ring import DOMAIN
from .writer import Writer

SHAPE = -1
"""The block that is the shape of what is broadcast in parts; it goes with block 0."""

GROUP_REFS = {
    "groups": AttributeProto.INTS,
    "group_size": AttributeProto.INT,
    "axis_name": AttributeProto.STRING,
}


def lowered_function(what: Lowering, opset: int) -> FunctionProto:
    """Return one rank's part in a collective as a function, in operators of `opset`.

    Its inputs are the node's operand and a token, which may be absent, its outputs the node's. Its
    attributes are the operand's dtype, the dims and the group, as the node has them.
    """
    body = _Body(what, opset)
    body.write()
    is_barrier = what.op_type == "Barrier"
    function = helper.make_function(
        DOMAIN, what.name,
        ["after"] if is_barrier else ["X", "after"],
        ["token"] if is_barrier else ["Y", "token"],
        body.nodes,
        [helper.make_opsetid("", opset), helper.make_opsetid(OURS, 1)],
        ["dtype", *DIMS, *GROUP],
    )  # fmt: skip
    function.metadata_props.add(key=KEY, value=json.dumps(asdict(what)))
    return function


class _Body(Writer):
    """The nodes of a function, as they are written."""

    def __init__(self, what: Lowering, opset: int) -> None:
        super().__init__(opset)
        self.what = what
        self.starts = what.starts()
        self.held: dict[int, str] = {}
        """the value of each block that this rank has, by number"""
        self.token: str | None = None

    def write(self) -> None:
        """Write all of it: the blocks of the operand, the rounds, the result."""
        self._take()
        for steps in self.what.rounds():
            self._round(steps)
        if self.what.op_type != "Barrier":
            self.node("Identity", [self._result()], ["Y"])
        self.node("Identity", [self.token or self.constant(np.array(True))], ["token"])

    def _take(self) -> None:
        """Make the blocks that this rank has at first."""
        what = self.what
        is_source = what.root in (None, what.rank) or what.op_type in ("Reduce", "Gather")
        if what.op_type == "Barrier":
            self.held[what.rank] = self.constant(np.empty(0, np.int64))
        elif what.op_type in ("AllGather", "Gather"):
            self.held[what.rank] = self.with_dim("X")
        elif not is_source:
            return
        elif what.op_type not in FLAT:
            dim = "split_dim" if what.op_type == "AllToAll" else "dim"
            parts = self.split("X", dim, what.size)
            step = what.count // what.size if what.op_type == "ReduceScatter" else 1
            for block, part in enumerate(parts):
                segments = self.split(part, dim, step)
                self.held |= {block * step + j: name for j, name in enumerate(segments)}
        elif len(self.starts) == 1:
            self.held[0] = "X"
        else:
            self.held[SHAPE] = self.op("Shape", "X")
            bounds = [divmod(start, what.segments) for start in self.starts]
            parts = self.cut("X", bounds, what.size, what.segments)
            self.held |= dict(zip(self.starts, parts, strict=True))

    def _round(self, steps: Round) -> None:
        before = dict(self.held)
        for step in steps:
            if isinstance(step, Send):
                for block in self._messages(step.blocks):
                    self._send(before[block], step.peer)
        for step in steps:
            if isinstance(step, Recv):
                for block in self._messages(step.blocks):
                    self._keep(block, self._receive(block, step.peer), step.reduce)
            elif not isinstance(step, Send):
                source, dest = (step.blocks, step.dest) if isinstance(step, Load) else step
                side = step.reduce if isinstance(step, Load) else None
                for a, b in zip(self._units(source), self._units(dest), strict=True):
                    self._keep(b, before[a], side)

    def _units(self, blocks: Blocks) -> list[int]:
        """Return the blocks by which others are cut off, that stand for those up to the next."""
        return [block for block in blocks if block % self.what.count in self.starts]

    def _messages(self, blocks: Blocks) -> list[int]:
        units = self._units(blocks)
        if self.what.op_type == "Broadcast" and len(self.starts) > 1 and 0 in units:
            units.insert(0, SHAPE)
        return units

    def _keep(self, block: int, value: str, side: str | None) -> None:
        """Store a value into a block, or reduce the block with it."""
        if side is not None:
            mine = self.held[block]
            pair = (value, mine) if side == "left" else (mine, value)
            value = self.op(OPERATORS[self.what.op or "sum"], *pair)
        self.held[block] = value

    def _send(self, value: str, peer: int) -> None:
        to = self.constant(np.array(peer))
        self.token = self.op("Send", value, to, "after", domain=OURS, refs=GROUP_REFS)

    def _receive(self, block: int, peer: int) -> str:
        """Receive a block: elements of the operand's type, but for a shape and a barrier's."""
        source, value, token = self.constant(np.array(peer)), self.fresh(), self.fresh()
        is_operand = block != SHAPE and self.what.op_type != "Barrier"
        refs = {**GROUP_REFS, "dtype": AttributeProto.INT} if is_operand else GROUP_REFS
        fixed = {} if is_operand else {"dtype": TensorProto.INT64}
        self.node("Recv", [source, "after"], [value, token], OURS, refs, **fixed)
        self.token = token
        return value

    def _result(self) -> str:
        """Put the result together."""
        what, held = self.what, self.held
        at_root = what.root in (None, what.rank)
        if what.op_type == "Gather" and not at_root:
            return self.emptied(held[what.rank], "dim")
        if what.op_type == "Reduce" and not at_root:
            return "X"
        if what.op_type in ("ReduceScatter", "Scatter"):
            step = what.count // what.size
            mine = range(what.rank * step, (what.rank + 1) * step)
            return self._finished(self.joined([held[block] for block in mine], "dim"))
        if what.op_type == "AllToAll":
            return self.joined([held[what.size + r] for r in range(what.size)], "concat_dim")
        if what.op_type in ("AllGather", "Gather"):
            return self.joined([held[r] for r in range(what.size)], "dim")
        whole = held[0]
        if len(self.starts) > 1:
            flat = self.op("Concat", *(held[start] for start in self.starts), axis=0)
            whole = self.op("Reshape", flat, held[SHAPE])
        return self._finished(whole)

    def _finished(self, total: str) -> str:
        """Turn a sum into a mean, if that is asked for."""
        if self.what.op != "mean":
            return total
        size, made = self.constant(np.array(self.what.size)), self.fresh()
        node = helper.make_node("Cast", [size], [made])
        kind = AttributeProto(name="to", ref_attr_name="dtype", type=AttributeProto.INT)
        node.attribute.append(kind)
        self.nodes.append(node)
        return self.op("Div", total, made)
