"""Graphs out of text, with random weights, and what is fed to them.

Weights and biases are of order 1, so that a wrong branch shows. What is random is drawn from the
text of its graph, and so stays as it is when another graph changes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.random import Generator
from onnx import numpy_helper, parser

Array = np.ndarray[Any, np.dtype[Any]]
Draw = Callable[[Generator], Array]

DOMAINS = ("com.microsoft", "rankwise")


class Case(NamedTuple):
    model: onnx.ModelProto
    feeds: dict[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """How long the open dims of what is fed are, by their name."""
        return {
            dim.dim_param: length
            for value in self.model.graph.input
            for dim, length in zip(
                value.type.tensor_type.shape.dim, np.shape(self.feeds[value.name]), strict=True
            )
            if dim.dim_param
        }


def build(text: str, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """Parse a graph; operators of com.microsoft may have a dot alone before their name.

    A weight given as a tuple of sizes is random, or as a function of a generator; anything else is
    a constant.
    """
    text, rng = text.replace("= .", "= com.microsoft."), generator(text)
    domains = "".join(f', "{domain}" : 1' for domain in DOMAINS if f"{domain}." in text)
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}{domains}]>\n g {text}'
    )
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(drawn(rng, value), name))
    return model


def generator(text: str) -> Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def drawn(rng: Generator, value: Any) -> Array:
    if isinstance(value, tuple):
        # What a matrix is multiplied with keeps its scale.
        value = normals(*value, factor=1.6 / max(1, value[0]) ** 0.5 if len(value) > 1 else 1.0)
    return value(rng) if callable(value) else np.array(value)


def normals(*shape: int, factor: float = 1.0) -> Draw:
    """Draw numbers of order `factor`."""
    return lambda rng: (rng.standard_normal(shape) * factor).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 256, dtype: Any = "u1") -> Draw:
    """Draw integers from `low` to below `high`."""
    return lambda rng: rng.integers(low, high, shape).astype(dtype)


def scales(*shape: int, factor: float = 1.0) -> Draw:
    """Draw positive numbers that are not alike."""
    return lambda rng: (rng.uniform(0.01, 0.03, shape) * factor).astype(np.float32)


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What is fed, alike for shapes of the same sum."""
    return normals(*shape)(np.random.default_rng(sum(shape)))


def numbers(*shape: int, low: int = 0, high: int, dtype: str = "i8") -> Array:
    """Integers that are fed."""
    return integers(*shape, low=low, high=high, dtype=dtype)(np.random.default_rng(sum(shape)))


def fixed(given: Case) -> Case:
    """Return the graph with every open dim of its inputs as long as what is fed."""
    model = copied(given.model)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = given.sizes[dim.dim_param]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return Case(model, given.feeds)


def half(given: Case) -> Case:
    """Return the graph in half precision."""
    model = copied(given.model)
    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == float32:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == float32:
            value.type.tensor_type.elem_type = float16
    feeds = {k: v.astype(np.float16) if v.dtype == "f4" else v for k, v in given.feeds.items()}
    return Case(model, feeds)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made
