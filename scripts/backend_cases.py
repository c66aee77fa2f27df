"""The cases of ONNX's backend suite, as onnxruntime's Python can be given them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from rankwise.models.graph import MAX_IR, MAX_OPSET
from rankwise.runtime.arrays import EXTENDED, is_extended

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")

WIDER = {
    TensorProto.INT2: TensorProto.INT8, TensorProto.INT4: TensorProto.INT8,
    TensorProto.UINT2: TensorProto.UINT8, TensorProto.UINT4: TensorProto.UINT8,
    TensorProto.FLOAT4E2M1: TensorProto.FLOAT,
}  # fmt: skip
"""By an element type that onnxruntime gives no array of to Python, one that holds its values."""


class Case(NamedTuple):
    """A model of the suite, what to feed it, and what is expected of it."""

    name: str
    model: ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


def cases(kind: str) -> Iterator[Case]:
    """Yield the cases of a kind, in the order of their names."""
    found = load_model_tests(kind="real" if kind == "light" else kind)
    for test in sorted(found, key=lambda test: test.name):
        if kind == "light":
            yield _light(test)
            continue
        model, data = test.model, test.data_sets
        if model is None:
            folder = Path(test.model_dir)
            model = onnx.load(folder / "model.onnx")
            data = [_stored(model, path) for path in sorted(folder.glob("test_data_set_*"))]
        plain = [([*map(_plain, fed)], [*map(_plain, given)]) for fed, given in data]
        yield Case(test.name, _readable(model), plain, test.rtol, test.atol)


def _readable(model: ModelProto) -> ModelProto:
    """Say of a model that it is as old as onnxruntime reads: what the suite expects still counts.

    Most operators got no more than new element types since.
    """
    older = ModelProto()
    older.CopyFrom(model)
    older.ir_version = min(model.ir_version, MAX_IR)
    for entry in older.opset_import:
        if not entry.domain:
            entry.version = min(entry.version, MAX_OPSET)
    return older


def _plain(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _light(test: Any) -> Case:
    """Read a network that lies in onnx itself, with weights that are all alike."""
    path = Path(onnx.__file__).parents[1] / test.url
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    fed = [
        Runner.generate_dummy_data(v, seed=0) for v in model.graph.input if v.name not in weights
    ]
    given = [onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))]
    return Case(test.name, model, [(fed, [*map(_plain, given)])], test.rtol, test.atol)


def _stored(model: ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    ends = (("input", model.graph.input), ("output", model.graph.output))
    fed, given = (
        [
            _parsed((folder / f"{name}_{k}.pb").read_bytes(), value.type)
            for k, value in enumerate(values)
            if (folder / f"{name}_{k}.pb").exists()
        ]
        for name, values in ends
    )
    return fed, given


def _parsed(data: bytes, kind: TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(TensorProto.FromString(data))


def frozen(case: Case, is_weight: Callable[[int, Any], bool]) -> Case:
    """Make some of the inputs weights: those of the first data set are the values."""
    (fed, given), *_ = case.data
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(4, model.ir_version)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    kept = []
    for number, (value, array) in enumerate(zip(inputs, fed, strict=True)):
        kind = value.type.tensor_type.elem_type
        if not kind or not is_weight(number, array):
            kept.append(array)
            continue
        tensor = numpy_helper.from_array(np.asarray(array), value.name)
        tensor.data_type = kind
        model.graph.initializer.append(tensor)
        model.graph.input.remove(value)
    return case._replace(model=model, data=[(kept, given)])


def is_unknown(dtype: np.dtype[Any]) -> bool:
    """Say whether onnxruntime takes no array of an element type from Python."""
    return is_extended(dtype) and all(dtype != known for _, known in EXTENDED.values())


def feedable(case: Case) -> Case:
    """Make weights of what cannot be fed, and wider integers of what cannot be taken."""
    made = frozen(case, lambda _, array: is_unknown(np.asarray(array).dtype))
    ((fed, given),), widened = made.data, list[Any]()
    for value, array in zip(made.model.graph.output, given, strict=True):
        kind = value.type.tensor_type.elem_type
        if kind in WIDER:
            name, value.name = value.name, f"{value.name}_wider"
            value.type.tensor_type.elem_type = WIDER[kind]
            node = helper.make_node("Cast", [name], [value.name], to=WIDER[kind])
            made.model.graph.node.append(node)
            array = array.astype(helper.tensor_dtype_to_np_dtype(WIDER[kind]))
        widened.append(array)
    return made._replace(data=[(fed, widened)])
