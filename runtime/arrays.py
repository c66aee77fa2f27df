"""Arrays as files, and as onnxruntime's values.

numpy has no name of its own for bfloat16 and its like: it would write them as raw bytes. In an npz
they are written as unsigned integers of their width, and the entry `__dtypes__` holds their names
as JSON. onnxruntime takes and gives them as OrtValues only.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[Any]

DTYPES = "__dtypes__"

EXTENDED: dict[str, tuple[int, np.dtype[Any]]] = {
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    "float8e4m3fn": (TensorProto.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn)),
    "float8e4m3fnuz": (TensorProto.FLOAT8E4M3FNUZ, np.dtype(ml_dtypes.float8_e4m3fnuz)),
    "float8e5m2": (TensorProto.FLOAT8E5M2, np.dtype(ml_dtypes.float8_e5m2)),
    "float8e5m2fnuz": (TensorProto.FLOAT8E5M2FNUZ, np.dtype(ml_dtypes.float8_e5m2fnuz)),
}
"""Element types beyond numpy's own, by onnxruntime's name."""

DTYPE_OF: dict[str, npt.DTypeLike] = {
    "bool": np.bool_, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "float16": np.float16, "float": np.float32, "double": np.float64, "string": np.object_,
    "complex64": np.complex64, "complex128": np.complex128,
    **{name: dtype for name, (_, dtype) in EXTENDED.items()},
}  # fmt: skip
"""numpy's dtype by onnxruntime's name of the element type."""


def dtype_of(type_name: str) -> np.dtype[Any] | None:
    """Return the dtype of `tensor(float)` and its like; None for what is no tensor."""
    name = type_name.removeprefix("tensor(").removesuffix(")")
    return np.dtype(DTYPE_OF[name]) if name in DTYPE_OF else None


def is_extended(dtype: np.dtype[Any]) -> bool:
    """Say whether a dtype is one of ml_dtypes."""
    return dtype.type.__module__ == ml_dtypes.__name__


class ArrayFileError(ValueError):
    """Report a file that is no npz of plain arrays."""


def save(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an npz; it appears complete or not at all. Raises OSError.

    What is there and is no file, as a pipe or a device, is written to as it is.
    """
    path = Path(path).resolve()
    names = {name: array.dtype.name for name, array in arrays.items() if is_extended(array.dtype)}
    plain = {name: as_plain(array) for name, array in arrays.items()}
    if names:
        plain[DTYPES] = np.array(json.dumps(names))
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            _write_all(stream, plain)
        return
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as stream:
            _write_all(stream, plain)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write_all(stream: IO[bytes], arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(stream, "w") as file:
        for name, array in arrays.items():
            _write(file, name, array)


def _write(file: zipfile.ZipFile, name: str, array: Array) -> None:
    # numpy's savez takes names as keywords, and so not the names "file" and "args".
    with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
        if array.dtype.kind == "O":
            array = array.astype(np.str_)
        np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def as_plain(array: Array) -> Array:
    """View bfloat16 and its like as unsigned integers; other arrays come back as they are."""
    return array.view(f"u{array.dtype.itemsize}") if is_extended(array.dtype) else array


def load(path: str | Path) -> dict[str, Array]:
    """Read an npz. bfloat16 comes from its unsigned form, and from the raw bytes numpy writes.

    Raises ArrayFileError for a file that is no npz, and FileNotFoundError.
    """
    try:
        # Opened here, since np.load leaves a file open that it cannot read.
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name, as an npy does")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "pickle" in reason:  # what numpy takes any other file for
            reason = "it is another kind of file, or holds Python objects"
        raise ArrayFileError(f"{path} is no npz of plain arrays, or truncated: {reason}") from None
    names = json.loads(str(arrays.pop(DTYPES))) if DTYPES in arrays else {}
    return {name: _restore(array, names.get(name)) for name, array in arrays.items()}


def _restore(array: Array, dtype_name: str | None) -> Array:
    if dtype_name is not None:
        return array.view(np.dtype(getattr(ml_dtypes, dtype_name)))
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == 2:
        return array.view(ml_dtypes.bfloat16)
    return array


def as_ortvalue(array: Array) -> onnxruntime.OrtValue:
    """Wrap an array without a copy, unless it is not contiguous."""
    import onnxruntime

    array = np.ascontiguousarray(array).reshape(array.shape)
    if not is_extended(array.dtype):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    kind = next(kind for kind, dtype in EXTENDED.values() if dtype == array.dtype)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(as_plain(array), kind)


class _Memory:
    """The elements of an OrtValue, which it keeps alive, in numpy's array protocol."""

    def __init__(self, value: onnxruntime.OrtValue, shape: tuple[int, ...], code: str) -> None:
        self.value = value
        self.__array_interface__ = {
            "version": 3,
            "data": (value.data_ptr(), False),
            "shape": shape,
            "typestr": code,
        }


def as_array(value: onnxruntime.OrtValue) -> Array:
    """View an OrtValue's elements without a copy."""
    dtype = dtype_of(value.data_type())
    assert dtype is not None, value.data_type()
    shape = tuple(value.shape())
    if 0 in shape or dtype.kind == "O":
        return np.empty(shape, dtype) if 0 in shape else value.numpy()
    code = f"<u{dtype.itemsize}" if is_extended(dtype) else dtype.str
    return np.asarray(_Memory(value, shape, code)).view(dtype)
