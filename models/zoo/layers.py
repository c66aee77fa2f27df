"""What the models here share: linear layers, activations, drawn weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..builder import Builder

Array = npt.NDArray[Any]
Activation = Callable[[Builder, str], str]


def _silu(g: Builder, x: str) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


def _gelu_tanh(g: Builder, x: str) -> str:
    return g.op("Gelu", x, approximate="tanh")


ACTIVATIONS: dict[str, Activation] = {
    "gelu": lambda g, x: g.op("Gelu", x),
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda g, x: g.op("Relu", x),
    "silu": _silu,
    "swish": _silu,
    "tanh": lambda g, x: g.op("Tanh", x),
}
"""By the names that Hugging Face's configurations use."""


def find_activation(name: object) -> Activation:
    """Return the function that adds an activation. Raises ValueError."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def linear(g: Builder, x: str, weight: Array, bias: Array, out: str | None = None) -> str:
    """Add x @ weight + bias as a MatMul and an Add. x [..., m], weight [m, n], bias [n]."""
    product = g.op("MatMul", x, g.weight("weight", weight))
    return g.op("Add", product, g.weight("bias", bias), out=out)


def drawn(rng: np.random.Generator, shape: Sequence[int], fan_in: int) -> Array:
    """Draw float32 weights of deviation 1.6 / sqrt(fan_in).

    Values then stay of order 1 through layers with a Relu: where they vanish, a wrong answer
    would not differ from a right one.
    """
    return rng.normal(0.0, 1.6 / np.sqrt(fan_in), shape).astype(np.float32)


def drawn_bias(rng: np.random.Generator, size: int) -> Array:
    """Draw a float32 bias; one of zeros would hide a bias that is added twice."""
    return rng.normal(0.0, 0.3, size).astype(np.float32)
