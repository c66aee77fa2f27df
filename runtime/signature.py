"""What a model takes and gives, in onnxruntime's words, and whether feeds fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, TypeProto, ValueInfoProto

from ..models.opset import tensor_type
from .arrays import Array, dtype_of, is_extended


class Value(NamedTuple):
    """An input or output: shaped as onnxruntime's NodeArg."""

    name: str
    type: str
    """such as tensor(float)"""
    shape: list[int | str | None]


def signature(values: Sequence[ValueInfoProto], types: Mapping[str, TypeProto]) -> list[Value]:
    """Describe graph inputs or outputs; `types` says what the graph leaves open."""
    return [_value(value, types.get(value.name)) for value in values]


def _value(value: ValueInfoProto, found: TypeProto | None) -> Value:
    declared = value.type if value.type.WhichOneof("value") else found
    _, shape = tensor_type(declared)
    return Value(value.name, _type_name(declared), list(shape or []))


def _type_name(proto: TypeProto | None) -> str:
    kind = proto.WhichOneof("value") if proto is not None else None
    if proto is None or kind is None:
        return "unknown"
    if kind == "sequence_type":
        return f"seq({_type_name(proto.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({_type_name(proto.optional_type.elem_type)})"
    if kind == "map_type":
        key = TensorProto.DataType.Name(proto.map_type.key_type).lower()
        return f"map({key},{_type_name(proto.map_type.value_type)})"
    element = TensorProto.DataType.Name(getattr(proto, kind).elem_type)
    return f"{kind.removesuffix('_type')}({element.lower()})"


def check_feeds(feeds: Mapping[str, Any], inputs: Sequence[Value]) -> dict[str, Any]:
    """Return the feeds as arrays. Raises ValueError for one that is missing, unknown or unfit."""
    names = [value.name for value in inputs]
    if missing := [name for name in names if name not in feeds]:
        raise ValueError(f"expected feeds {names}, missing {missing}")
    if unknown := [name for name in feeds if name not in names]:
        raise ValueError(f"expected feeds {names}, got {unknown} too")
    return {value.name: _checked(value, feeds[value.name]) for value in inputs}


def _checked(value: Value, feed: Any) -> Any:
    dtype = dtype_of(value.type)
    if dtype is None:
        return feed
    array = np.asarray(feed)
    if dtype.kind == "O" and array.dtype.kind in "OUS":
        return array.astype(np.object_)
    if array.dtype != dtype:
        raise ValueError(f"input {value.name!r}: expected {dtype}, got {array.dtype}")
    if value.shape and not _fits(array.shape, value.shape):
        wanted = ", ".join(str(dim if dim is not None else "?") for dim in value.shape)
        raise ValueError(
            f"input {value.name!r}: expected {dtype} [{wanted}], got {list(array.shape)}"
        )
    return array


def fits(feed: Any, value: Value) -> bool:
    """Say whether a feed has the shape that an input takes."""
    return not value.shape or _fits(np.shape(feed), value.shape)


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(
        not isinstance(dim, int) or dim == size for size, dim in zip(shape, wanted, strict=True)
    )


def random_feeds(inputs: Sequence[Value], seed: int) -> dict[str, Array]:
    """Draw feeds: normal floats, integers and bools of 0 and 1.

    The first symbol among the dims is 2, every other is 8; the same symbol has the same size.
    Raises ValueError for an input that is no tensor of numbers.
    """
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    feeds: dict[str, Array] = {}
    for value in inputs:
        dtype = dtype_of(value.type)
        if dtype is None or dtype.kind == "O":
            raise ValueError(f"input {value.name!r} is {value.type}: give it with --inputs")
        # An unnamed dim is a symbol of its own.
        symbols = [f"{value.name}.{k}" if d is None else d for k, d in enumerate(value.shape)]
        for symbol in symbols:
            if isinstance(symbol, str):
                sizes.setdefault(symbol, 8 if sizes else 2)
        shape = [sizes[symbol] if isinstance(symbol, str) else symbol for symbol in symbols]
        is_real = dtype.kind in "fc" or is_extended(dtype)
        drawn = rng.standard_normal(shape) if is_real else rng.integers(0, 2, shape)
        feeds[value.name] = np.asarray(drawn).astype(dtype)
    return feeds
