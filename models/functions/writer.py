"""Nodes of a function, written one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, NodeProto, helper, numpy_helper


class Writer:
    """A list of nodes that grows; a value is its name, an attribute may be the function's."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[NodeProto] = []
        self.opset = opset
        self._count = 0
        self._constants: dict[bytes, str] = {}

    def fresh(self) -> str:
        """Return a name for a value."""
        self._count += 1
        return f"v{self._count}"

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        refs: Mapping[str, Any] | None = None,
        **attributes: Any,
    ) -> None:
        """Add a node; `refs` are attributes that it has of the function, with their types."""
        made = helper.make_node(op_type, inputs, outputs, domain=domain, **attributes)
        for name, kind in (refs or {}).items():
            made.attribute.append(AttributeProto(name=name, ref_attr_name=name, type=kind))
        self.nodes.append(made)

    def op(
        self,
        op_type: str,
        *inputs: str,
        domain: str = "",
        refs: Mapping[str, Any] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node with one output, and return it."""
        made = self.fresh()
        self.node(op_type, inputs, [made], domain, refs, **attributes)
        return made

    def constant(self, value: npt.NDArray[Any]) -> str:
        """Return a constant, the same for the same value."""
        tensor = numpy_helper.from_array(value)
        key = tensor.SerializeToString(deterministic=True)
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=tensor)
        return self._constants[key]

    def attribute(self, name: str) -> str:
        """Return an integer attribute of the function as a scalar."""
        made = self.fresh()
        node = helper.make_node("Constant", [], [made])
        kind = AttributeProto.INT
        node.attribute.append(AttributeProto(name="value_int", ref_attr_name=name, type=kind))
        self.nodes.append(node)
        return made

    def with_dim(self, x: str) -> str:
        """Make a scalar a tensor of one element; others stay as they are."""
        shape, one = self.op("Shape", x), self.constant(np.array([1]))
        rank = self.op("Size", shape)
        padded = self.op("Concat", one, shape, axis=0)
        start = self.op("Reshape", self.op("Min", rank, self.constant(np.array(1))), one)
        end = self.constant(np.array([np.iinfo(np.int64).max]))
        return self.op("Reshape", x, self.op("Slice", padded, start, end))

    def split(self, x: str, dim: str, parts: int) -> list[str]:
        """Cut a tensor along a dim, an attribute's, as numpy.array_split does."""
        if parts == 1:
            return [x]
        x = self.with_dim(x)
        length = self.op("Gather", self.op("Shape", x), self.attribute(dim))
        lengths = self._lengths(length, parts)
        made = [self.fresh() for _ in range(parts)]
        self.node("Split", [x, lengths], made)
        self._axis(dim)
        return made

    def _lengths(self, length: str, parts: int) -> str:
        count = self.constant(np.array(parts))
        base, rest = self.op("Div", length, count), self.op("Mod", length, count)
        is_longer = self.op("Less", self.constant(np.arange(parts)), rest)
        return self.op("Add", self.op("Cast", is_longer, to=7), base)

    def cut(
        self, x: str, bounds: Sequence[tuple[int, int]], parts: int, segments: int
    ) -> list[str]:
        """Cut all elements before each (block, segment), of even blocks of even segments."""
        flat = self.op("Reshape", x, self.constant(np.array([-1])))
        length, count = self.op("Size", flat), self.constant(np.array(parts))
        base, rest = self.op("Div", length, count), self.op("Mod", length, count)
        ends = [*bounds, (parts, 0)]
        block = self.constant(np.array([b for b, _ in ends]))
        places = self._evenly(block, base, rest)
        if segments > 1:
            segment = self.constant(np.array([j for _, j in ends]))
            longer = self.op("Cast", self.op("Less", block, rest), to=7)
            own, several = self.op("Add", longer, base), self.constant(np.array(segments))
            short, more = self.op("Div", own, several), self.op("Mod", own, several)
            places = self.op("Add", places, self._evenly(segment, short, more))
        one, last = self.constant(np.array([1])), self.constant(np.array([len(ends)]))
        before = self.op("Slice", places, self.constant(np.array([0])), self._minus_one())
        lengths = self.op("Sub", self.op("Slice", places, one, last), before)
        made = [self.fresh() for _ in bounds]
        self.node("Split", [flat, lengths], made)
        return made

    def _evenly(self, number: str, base: str, rest: str) -> str:
        """Return where the part of a number begins, if the first `rest` are longer by one."""
        return self.op("Add", self.op("Mul", number, base), self.op("Min", number, rest))

    def _minus_one(self) -> str:
        return self.constant(np.array([-1]))

    def joined(self, parts: Sequence[str], dim: str) -> str:
        """Concatenate along a dim, an attribute's."""
        if len(parts) == 1:
            return parts[0]
        made = self.op("Concat", *parts)
        self._axis(dim)
        return made

    def emptied(self, x: str, dim: str) -> str:
        """Return a tensor without elements along a dim, an attribute's."""
        zero = self.constant(np.array([0]))
        along = self.op("Reshape", self.attribute(dim), self.constant(np.array([1])))
        return self.op("Slice", x, zero, zero, along)

    def _axis(self, dim: str) -> None:
        """Give the latest node the axis that the function has as an attribute."""
        axis = AttributeProto(name="axis", ref_attr_name=dim, type=AttributeProto.INT)
        self.nodes[-1].attribute.append(axis)
