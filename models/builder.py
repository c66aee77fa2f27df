"""A small graph builder over onnx: it names values and collects nodes and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, ValueInfoProto, helper, numpy_helper

OPSET, IR_VERSION = 20, 10
"""What models are written in. onnx 1.23's own defaults are newer than onnxruntime 1.31 reads."""


class Builder:
    """A graph that grows node by node; a value is its name.

    Names come from the scope: `layer.0.query/MatMul` for a node and its output, `/MatMul_1` where
    that is taken, and `layer.0.query.weight` for a weight.
    """

    def __init__(self, name: str) -> None:
        self.graph = GraphProto(name=name)
        self._scope: tuple[str, ...] = ()
        self._taken: set[str] = set()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put a name before those that are made inside."""
        before, self._scope = self._scope, (*self._scope, name)
        try:
            yield
        finally:
            self._scope = before

    def scoped(self, name: str) -> str:
        """Return a name with the scopes before it, as weights have it."""
        return ".".join((*self._scope, name))

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph; dims given as strings are symbolic."""
        self.graph.input.append(_value_info(self._claim(name), dtype, shape))
        return name

    def output(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> None:
        """Declare a value that a node has made as an output of the graph."""
        self.graph.output.append(_value_info(name, dtype, shape))

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add an initializer."""
        name = self._claim(self.scoped(name))
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """Add a small initializer that needs no name of its own: sizes, axes, factors."""
        name = self._fresh("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def op(self, op_type: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, named `out` where given; return that output's name."""
        name = self._fresh(op_type)
        made = name if out is None else self._claim(out)
        self.graph.node.append(helper.make_node(op_type, inputs, [made], name, **attributes))
        return made

    def model(self) -> ModelProto:
        """Return the graph as a model."""
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            self.graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="rankwise"
        )

    def _fresh(self, last: str) -> str:
        scope = ".".join(self._scope)
        stem = f"{scope}/{last}" if scope else last
        name, k = stem, 0
        while name in self._taken:
            k += 1
            name = f"{stem}_{k}"
        return self._claim(name)

    def _claim(self, name: str) -> str:
        if name in self._taken:
            raise ValueError(f"expected a name that is free, got {name!r} twice")
        self._taken.add(name)
        return name


def _value_info(name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
