"""Activations of recurrent layers, as nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..axes import Conflict
from ..rewrite import Array
from ..site import Site

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "Affine": {"alpha": 0.0, "beta": 0.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Relu": {},
    "ScaledTanh": {"alpha": 0.0, "beta": 0.0},
    "Sigmoid": {},
    "Softplus": {},
    "Softsign": {},
    "Tanh": {},
    "ThresholdedRelu": {"alpha": 0.0},
}
"""Activations, and what onnxruntime takes for their parameters where none are given."""


class Nodes(Protocol):
    """What nodes are added to."""

    def constant(self, array: Array) -> str: ...

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str: ...


class Activation(NamedTuple):
    """An activation with its parameters."""

    name: str
    parameters: Mapping[str, float]

    def apply(self, on: Nodes, x: str) -> str:
        """Add its nodes: Affine is alpha * x + beta, ScaledTanh alpha * tanh(beta * x)."""
        numbers = {k: on.constant(np.array(v, np.float32)) for k, v in self.parameters.items()}
        if self.name == "Affine":
            return on.node("Add", [on.node("Mul", [x, numbers["alpha"]]), numbers["beta"]])
        if self.name == "ScaledTanh":
            inner = on.node("Tanh", [on.node("Mul", [x, numbers["beta"]])])
            return on.node("Mul", [inner, numbers["alpha"]])
        return on.node(self.name, [x], **self.parameters)


def activations(site: Site, default: Sequence[str], directions: int) -> list[list[Activation]]:
    """Return the activations of each direction; `default` are those of one.

    Raises Conflict for one that is not known. Parameters go to those that take some, in order.
    """
    given = site.attribute("activations")
    names = [name.decode() for name in given] if given else [*default] * directions
    known = {name.lower(): name for name in DEFAULTS}
    for name in names:
        if name.lower() not in known:
            raise Conflict(f"activation {name!r} is not known")
    if len(names) != len(default) * directions:
        raise Conflict(f"it has {len(names)} activations")
    values: dict[str, Iterator[float]] = {
        key: iter(site.attribute(f"activation_{key}", ())) for key in ("alpha", "beta")
    }
    found = [_with_parameters(known[name.lower()], values) for name in names]
    each = len(default)
    return [found[k : k + each] for k in range(0, len(found), each)]


def _with_parameters(name: str, values: Mapping[str, Iterator[float]]) -> Activation:
    usual = DEFAULTS[name]
    return Activation(name, {key: next(values[key], usual[key]) for key in usual})
