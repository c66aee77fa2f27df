"""A node of any operator that has a rule, as far as its schema tells what it takes.

Attributes, and inputs that an older opset has as attributes, are drawn by their name, which means
the same in all operators. Other inputs are drawn by their type: the first is a tensor of the
graph, the others fit it in shape. What the guess is wrong about does not run, and is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, defs, helper
from onnx.defs import OpSchema

from rankwise.models.bodies import FORMS
from rankwise.models.sharding.rules import RULES

from .draft import Draft, Node
from .values import Value

INT64 = np.dtype(np.int64)
KINDS = [np.dtype(name) for name in ("f4", "i8", "i4", "?")]
CASTS = [helper.np_dtype_to_tensor_dtype(np.dtype(n)) for n in ("f4", "f8", "i8", "i4", "?", "u1")]


def dims(d: Draft, x: Value) -> list[int]:
    """Return one dim or two, or at times those of size 1."""
    ones = [dim for dim, size in enumerate(x.shape) if size == 1]
    return ones if ones and d.pick(2) else d.rng.permutation(x.rank)[: 1 + d.pick(2)].tolist()


PARAMETERS: dict[str, Callable[[Draft, Value], Any]] = {
    "axes": dims,
    "axis": Draft.dim,
    "blocksize": lambda d, x: 2,
    "ceil_mode": lambda d, x: d.pick(2),
    "direction": lambda d, x: d.one(("LEFT", "RIGHT")),
    "epsilon": lambda d, x: 0.01,
    "exclusive": lambda d, x: d.pick(2),
    "fmod": lambda d, x: int(x.dtype.kind == "f"),
    "k": lambda d, x: [d.one((1, 2))],
    "keepdims": lambda d, x: d.pick(2),
    "kernel_shape": lambda d, x: [2] * (x.rank - 2),
    "max": lambda d, x: 0.5,
    "min": lambda d, x: -1.0,
    "mode": lambda d, x: d.one(("CRD", "DCR", "constant", "edge", "linear", "nearest")),
    "num_groups": lambda d, x: d.one((1, 2, 3)),
    "p": lambda d, x: d.one((1, 2)),
    "perm": lambda d, x: d.rng.permutation(x.rank).tolist(),
    "reverse": lambda d, x: d.pick(2),
    "size": lambda d, x: 3,
    "strides": lambda d, x: [d.one((1, 2))] * (x.rank - 2),
    "to": lambda d, x: d.one(CASTS),
}
"""What is given by name. What is required is always given, the rest half of the time."""

PLAIN = {"BitShift", "Div", "Mod"}
"""Operators whose second input is a vector of integers that are not 0."""


@cache
def operators(opset: int) -> list[str]:
    """Return the operators with a rule that an opset has, in the order of the rules.

    Those that have bodies are left out.
    """
    found = [schema(op, opset) for op in RULES if op not in FORMS]
    return [entry.name for entry in found if entry is not None]


def schema(op: str, opset: int) -> OpSchema | None:
    if not defs.has(op, opset, ""):
        return None
    found = defs.get_schema(op, opset)
    return None if found.deprecated or not found.inputs else found


def from_schema(d: Draft, op: str, x: Value) -> Node | None:
    """Propose a node that reads x, None where its schema cannot be followed."""
    known = schema(op, d.opset)
    if known is None or not _takes(known, 0, x.dtype):
        return None
    attributes = {
        name: PARAMETERS[name](d, x)
        for name, entry in known.attributes.items()
        if name in PARAMETERS and (entry.required or d.pick(2))
    }
    inputs = _inputs(d, known, x)
    if len(inputs) == 2 and _type(known, 0) == _type(known, 1) and op not in PLAIN and d.pick(2):
        inputs.reverse()
    return None if None in inputs else Node(op, inputs, attributes, known.min_output)


def _inputs(d: Draft, known: OpSchema, x: Value) -> list[Any]:
    """Return names of inputs; None in the place of one that cannot be drawn."""
    last = known.inputs[-1]
    is_variadic = last.option == OpSchema.FormalParameterOption.Variadic
    many = known.min_input + d.pick(2) if is_variadic else len(known.inputs)
    shaped = _last if known.name in PLAIN else d.one((near, near, _channels, _last))
    names: list[Any] = [x.name]
    for position in range(1, many):
        parameter = known.inputs[min(position, len(known.inputs) - 1)]
        is_optional = position >= known.min_input and not is_variadic
        if parameter.name.lower() in PARAMETERS:
            is_given = not is_optional or d.pick(2)
            names.append(_parameter(d, known, position, x) if is_given else "")
        elif is_optional:
            break
        else:
            kind = _kind(d, known, position, x)
            names.append(None if kind is None else shaped(d, x, kind))
    return names


def _parameter(d: Draft, known: OpSchema, position: int, x: Value) -> str:
    """Add the constant that an input is called after."""
    value = PARAMETERS[known.inputs[position].name.lower()](d, x)
    return d.constant(np.array(value, np.int64 if _takes(known, position, INT64) else x.dtype))


def _takes(known: OpSchema, position: int, dtype: np.dtype[Any]) -> bool:
    kind = TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(dtype))
    return f"tensor({kind.lower()})" in (_types(known, position) or [_type(known, position)])


def _types(known: OpSchema, position: int) -> Sequence[str]:
    """Return the types that an input may have; none where it has one that is not a parameter."""
    name = _type(known, position)
    found = [t.allowed_type_strs for t in known.type_constraints if t.type_param_str == name]
    return found[0] if found else ()


def _type(known: OpSchema, position: int) -> str:
    return known.inputs[min(position, len(known.inputs) - 1)].type_str


def _kind(d: Draft, known: OpSchema, position: int, x: Value) -> np.dtype[Any] | None:
    """Return the element type of an input: that of the first, if it is bound to it.

    None where the type is no parameter, as that of sizes and places is not: of such, onnxruntime
    does not check all, and a wrong one may end the process.
    """
    if _type(known, 0) == _type(known, position):
        return x.dtype
    taken = [kind for kind in KINDS if _types(known, position) and _takes(known, position, kind)]
    return d.one(taken) if taken else None


def _channels(d: Draft, x: Value, kind: np.dtype[Any]) -> str:
    size = x.shape[1] if x.rank > 1 and x.is_static(1) else 1
    return d.weight(size, dtype=kind, is_positive=d.pick(2) > 0)


def _last(d: Draft, x: Value, kind: np.dtype[Any]) -> str:
    size = x.shape[-1] if x.rank and x.is_static(x.rank - 1) else 1
    return d.weight(size, dtype=kind, is_positive=d.pick(2) > 0)


def near(d: Draft, x: Value, kind: np.dtype[Any]) -> str:
    """Return a tensor that broadcasts with x: one of the graph, or a weight."""
    others = [value for value in d.values if value.dtype == kind and value.name != x.name]
    if others and d.pick(3) == 0:
        return str(d.one(others).name)
    first = d.pick(x.rank + 1)
    sizes = [
        n if x.is_static(first + k) and d.pick(4) else 1 for k, n in enumerate(x.shape[first:])
    ]
    return d.weight(*sizes, dtype=kind, is_positive=d.pick(3) == 0)
