"""What is known of a tensor before anything runs: element type, shape, and a small value."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, TypeProto, helper

from ..opset import tensor_type

Array = npt.NDArray[Any]
Dims = tuple[int | None, ...]

VALUE_ELEMENTS = 64
"""Larger tensors are neither peers nor conditions nor shapes: their values are not followed."""

ALIASES = {TensorProto.STRING, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}
"""Element types whose values numpy does not hold as they are."""


class Tensor(NamedTuple):
    """One tensor on one rank; equal ones are known to be alike.

    >>> str(Tensor.of(np.array([1, 2])))
    'int64 [2] = [1, 2]'
    """

    dtype: int | None = None
    """a TensorProto.DataType"""
    shape: Dims | None = None
    content: bytes | None = None
    """the elements in C order, where they are few and known"""

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """Describe an array, its elements too where they are few."""
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        small = array.size <= VALUE_ELEMENTS and dtype not in ALIASES
        return cls(dtype, array.shape, array.tobytes() if small else None)

    @classmethod
    def declared(cls, proto: TypeProto | None) -> Tensor:
        """Describe what a type says; names of dims are unknown sizes."""
        dtype, shape = tensor_type(proto)
        if shape is None:
            return cls(dtype)
        # Inference can come to a negative size, in a branch that is never taken.
        return cls(dtype, tuple(d if isinstance(d, int) and d >= 0 else None for d in shape))

    @property
    def is_fixed(self) -> bool:
        """Whether all of its dims are known."""
        return self.shape is not None and None not in self.shape

    @property
    def value(self) -> Array | None:
        """The elements, if they are known; not to be written to."""
        if self.content is None or self.dtype is None or self.shape is None:
            return None
        kind = helper.tensor_dtype_to_np_dtype(self.dtype)
        return np.frombuffer(self.content, kind).reshape(self.shape)  # type: ignore[arg-type]

    @property
    def number(self) -> int | None:
        """The element of an integer or bool tensor that has one, if it is known."""
        value = self.value
        if value is None or value.size != 1 or value.dtype.kind not in "iub":
            return None
        return int(value.reshape(()))

    @property
    def proto(self) -> TypeProto:
        """Its type as onnx has it."""
        return helper.make_tensor_type_proto(self.dtype or 0, self.shape)

    def refined(self, other: Tensor) -> Tensor:
        """Return it with what only the other knows."""
        if self.shape is None or other.shape is None or len(self.shape) != len(other.shape):
            shape = other.shape if self.shape is None else self.shape
        else:
            pairs = zip(self.shape, other.shape, strict=True)
            shape = tuple(b if a is None else a for a, b in pairs)
        return Tensor(self.dtype or other.dtype, shape, self.content)

    def joined(self, other: Tensor) -> Tensor:
        """Return what holds for both."""
        if self == other:
            return self
        shape = None
        if self.shape is not None and other.shape is not None:
            pairs = list(zip(self.shape, other.shape, strict=False))
            if len(self.shape) == len(other.shape):
                shape = tuple(a if a == b else None for a, b in pairs)
        return Tensor(self.dtype if self.dtype == other.dtype else None, shape)

    def __str__(self) -> str:
        name = "any type" if self.dtype is None else dtype_name(self.dtype)
        if self.shape is None:
            return f"{name} of any shape"
        text = f"{name} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"
        return text if self.value is None else f"{text} = {self.value.tolist()}"


UNKNOWN = Tensor()


def is_small(tensor: Tensor) -> bool:
    """Say whether a tensor is known to have so few elements that they are followed."""
    if tensor.dtype is None or tensor.shape is None:
        return False
    sizes = [VALUE_ELEMENTS + 1 if size is None else size for size in tensor.shape]
    return math.prod(sizes) <= VALUE_ELEMENTS


def dtype_name(dtype: int) -> str:
    """Return numpy's name of an element type."""
    return str(helper.tensor_dtype_to_np_dtype(dtype))


def may_equal(left: Dims | None, right: Dims | None) -> bool:
    """Say whether two shapes can be the same, as far as they are known.

    >>> may_equal((2, None), (2, 3)), may_equal((2,), (3,)), may_equal(None, (3,))
    (True, False, True)
    """
    if left is None or right is None:
        return True
    return len(left) == len(right) and all(
        a is None or b is None or a == b for a, b in zip(left, right, strict=True)
    )
