"""Weights: initializers that are read when, and as far as, they are needed.

A weight of a large model lies in an external file. It is mapped, never loaded: a rank that holds a
quarter of a tensor reads that quarter. What is written goes out tensor by tensor, so that the
memory of a sharding is that of its largest tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from .errors import ModelError

Array = npt.NDArray[Any]
IndexSet = npt.NDArray[np.int64] | None
"""Indices kept of a dim, ascending; None keeps all."""

INLINE_BYTES = 1024
"""Smaller weights stay in the graph: onnxruntime reads shapes and axes from there."""

PAGE = 4096
"""Alignment of external data, so that onnxruntime can map each weight by itself."""

PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.STRING}
"""Element types that do not lie in a file as one numpy element each."""


def bounds(total: int, part: int, parts: int) -> tuple[int, int]:
    """Return the first index of a part and the first beyond, as numpy.array_split cuts.

    >>> [bounds(7, part, 3) for part in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    """
    each, rest = divmod(total, parts)
    start = part * each + min(part, rest)
    return start, start + each + (part < rest)


@dataclass(frozen=True)
class Weight:
    """An initializer: its type and shape, and where its elements are."""

    name: str
    data_type: int
    """an onnx.TensorProto.DataType"""
    shape: tuple[int, ...]
    proto: TensorProto
    """the tensor itself, or the reference to its external data"""
    folder: Path | None = None
    """where the external data lies"""

    @classmethod
    def of(cls, proto: TensorProto, folder: Path | None = None) -> Weight:
        """Wrap a tensor; an external one must lie in `folder`, at its full length."""
        weight = cls(proto.name, proto.data_type, tuple(proto.dims), proto, folder)
        if weight.is_external:
            weight._check_extent()
        return weight

    @classmethod
    def from_array(cls, name: str, array: Array) -> Weight:
        """Wrap an array."""
        return cls.of(to_proto(name, array))

    @property
    def is_external(self) -> bool:
        return self.proto.data_location == TensorProto.EXTERNAL

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, packed as ONNX packs them."""
        if self.data_type == TensorProto.STRING:
            return sum(map(len, self.proto.string_data))
        bits = 4 if self.data_type in PACKED else 8 * self.dtype.itemsize
        return (self.count * bits + 7) // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self.data_type)

    def read(self, index: Sequence[IndexSet] = ()) -> Array:
        """Return the elements, of each dim those that `index` keeps."""
        array = self._elements()
        for dim, kept in enumerate(index):
            if kept is None:
                continue
            if len(kept) and kept[-1] - kept[0] + 1 == len(kept):
                array = array[(slice(None),) * dim + (slice(kept[0], kept[-1] + 1),)]
            else:
                array = np.take(array, kept, axis=dim)
        return array

    def _elements(self) -> Array:
        if not self.is_external or self.data_type in PACKED:
            base = str(self.folder) if self.folder else ""
            return numpy_helper.to_array(self.proto, base_dir=base)
        path, offset, _ = self._location()
        if not self.count:
            return np.empty(self.shape, self.dtype)
        return np.memmap(path, self.dtype, "r", offset, self.shape)

    def _location(self) -> tuple[Path, int, int]:
        info = external_data_helper.ExternalDataInfo(self.proto)
        if self.folder is None:
            raise ModelError(
                f"weight {self.name!r} lies in {info.location!r}, but a model given as bytes has "
                "no folder; give its path"
            )
        return self.folder / info.location, info.offset or 0, info.length or self.nbytes

    def _check_extent(self) -> None:
        path, offset, length = self._location()
        if self.folder and not path.resolve().is_relative_to(self.folder.resolve()):
            raise ModelError(f"weight {self.name!r} lies outside the model's folder, at {path}")
        if not path.is_file():
            raise ModelError(f"weight {self.name!r} lies in {path}, which does not exist")
        size = path.stat().st_size
        if size < offset + length or length < self.nbytes:
            raise ModelError(
                f"weight {self.name!r} needs bytes {offset} to {offset + self.nbytes} of {path}, "
                f"which has {size}; it is truncated"
            )


class WeightFile:
    """Append tensors to an external data file, and return their references."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")

    def append(self, name: str, array: Array) -> TensorProto:
        """Write `array`; return the TensorProto that refers to it, or holds it if it is small."""
        if array.nbytes < INLINE_BYTES or helper.np_dtype_to_tensor_dtype(array.dtype) in PACKED:
            return to_proto(name, array)
        self._file.write(b"\0" * (-self._file.tell() % PAGE))
        offset = self._file.tell()
        np.ascontiguousarray(array).view(np.uint8).tofile(self._file)
        proto = TensorProto(name=name, dims=array.shape)
        proto.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.data_location = TensorProto.EXTERNAL
        fields = {"location": self._path.name, "offset": offset, "length": array.nbytes}
        for key, value in fields.items():
            proto.external_data.add(key=key, value=str(value))
        return proto

    def close(self) -> None:
        self._file.close()
        if self._path.stat().st_size == 0:
            self._path.unlink()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_proto(name: str, array: Array) -> TensorProto:
    """Return a tensor that holds its elements."""
    # ascontiguousarray turns a 0-d array into one of a single dim.
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def initializers(graph: onnx.GraphProto, folder: Path | None) -> dict[str, Weight]:
    """Return the weights of a graph by name."""
    return {proto.name: Weight.of(proto, folder) for proto in graph.initializer}
