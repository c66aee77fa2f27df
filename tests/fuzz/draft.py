"""A graph while it grows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.random import Generator
from onnx import helper, numpy_helper

from . import values
from .values import Array, Value

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 12)


class Node(NamedTuple):
    """A node that is proposed."""

    op: str
    inputs: list[str]
    attributes: Mapping[str, Any] = MappingProxyType({})
    outputs: int = 1


class Drawn(NamedTuple):
    """A graph and what to feed it, once or twice."""

    model: onnx.ModelProto
    feeds: tuple[dict[str, Array], ...]


class Draft:
    """A graph, and the contents of its tensors."""

    def __init__(self, rng: Generator, model: onnx.ModelProto, given: list[Value]) -> None:
        self.rng = rng
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.given = given
        self.values = list(given)
        imports = {entry.domain: entry.version for entry in model.opset_import}
        self.opset = imports[""]

    def pick(self, count: int) -> int:
        """Return a number below `count`; 0 where there is none."""
        return int(self.rng.integers(max(1, count)))

    def one(self, row: Any) -> Any:
        return row[self.pick(len(row))]

    def width(self) -> int:
        return int(self.rng.choice(WIDTHS))

    def dim(self, x: Value) -> int:
        """Return a dim, in either way to count."""
        return self.pick(2 * x.rank) - x.rank if self.opset >= 11 else self.pick(x.rank)

    def weight(self, *shape: int, dtype: Any = np.float32, is_positive: bool = False) -> str:
        """Add a random weight: integers are small and not 0, matrices keep the scale of x."""
        if np.dtype(dtype).kind != "f":
            return self.constant(self.rng.integers(1, 6, shape).astype(dtype))
        array = self.rng.standard_normal(shape)
        array = np.abs(array) + 0.1 if is_positive else array
        return self.constant((array * (shape[0] ** -0.5 if len(shape) > 1 else 1)).astype(dtype))

    def constant(self, array: Any) -> str:
        name = f"fuzz_w{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def int64(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def alike(self, x: Value) -> list[Value]:
        """Return the tensors of the same element type."""
        return [value for value in self.values if value.dtype == x.dtype]

    def add(self, node: Node) -> bool:
        """Add a node, if it runs and its outputs are to be kept."""
        graph, before = self.model.graph, len(self.values)
        names = [f"fuzz_t{len(graph.node)}_{k}" for k in range(node.outputs)]
        given = {name: value for name, value in node.attributes.items() if value != []}
        proto = helper.make_node(node.op, node.inputs, names, **given)
        self.values += values.run(self._alone(proto), self._read_by(proto), self.rng)
        if len(self.values) == before:
            return False
        graph.node.append(proto)
        return True

    def _alone(self, node: onnx.NodeProto) -> onnx.ModelProto:
        """Return a model of one node."""
        weights = [t for t in self.model.graph.initializer if t.name in node.input]
        inputs = [_info(value, _sizes(value)) for value in self._read_by(node)]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = helper.make_graph([node], "node", inputs, outputs, weights)
        return helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )

    def _read_by(self, node: onnx.NodeProto) -> list[Value]:
        return [value for value in self.values if value.name in node.input]

    def finished(self) -> Drawn:
        """Return the graph; its outputs are what nothing reads, and at times more."""
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input}
        made = self.values[len(self.given) :]
        kept = [value for value in made if value.name not in read or self.pick(8) == 0]
        del graph.output[:]
        graph.output.extend(map(_info, kept))
        weights = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(weights)
        feeds = [{value.name: value.arrays[k] for value in self.given} for k in (0, 1)]
        is_open = any(not v.is_static(dim) for v in self.given for dim in range(v.rank))
        return Drawn(self.model, tuple(feeds if is_open else feeds[:1]))


def _info(value: Value, sizes: list[int | str] | None = None) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, kind, sizes)


def _sizes(value: Value) -> list[int | str]:
    """Return the sizes of dims, and names for those that are open."""
    first, second = (array.shape for array in value.arrays)
    pairs = zip(first, second, strict=True)
    return [a if a == b else values.open_dim(a, b) for a, b in pairs]
