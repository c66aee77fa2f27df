"""The types of values, from instruction to instruction: what fragments are declared to take.

A dim that may differ from run to run, or from iteration to iteration, is left open.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from onnx import TensorProto, TypeProto, helper

from ..models.errors import ModelError
from ..models.opset import OPS, Shape, result, tensor_type
from ..models.plan import Branch, Communicate, Control, ParallelFor, Repeat, Scan

Types = dict[str, TypeProto]
Ends = Sequence[TypeProto | None]


def agreed(told: TypeProto | None, declared: TypeProto) -> TypeProto:
    """Return a type as onnxruntime tells it, without sizes that the model does not say too.

    It guesses the length of a cache, or of a slice; a fragment that was told it would refuse what
    is of another length.
    """
    if told is None or not told.tensor_type.HasField("shape"):
        return declared
    if not declared.tensor_type.HasField("shape"):
        return declared
    pairs = list(zip_longest(told.tensor_type.shape.dim, declared.tensor_type.shape.dim))
    if any(None in pair for pair in pairs):
        return helper.make_tensor_type_proto(told.tensor_type.elem_type, None)
    agreed = TypeProto()
    agreed.CopyFrom(told)
    for (ours, theirs), dim in zip(pairs, agreed.tensor_type.shape.dim, strict=True):
        if ours != theirs:
            dim.Clear()
    return agreed


def communicated(step: Communicate, types: Types) -> Types:
    """Return the types of what a communication node gives. Raises ModelError."""
    op = OPS[step.op]
    made = [helper.make_tensor_type_proto(TensorProto.BOOL, [])] * 2
    if op.gives == "scalar":
        made = [helper.make_tensor_type_proto(TensorProto.INT64, [])]
    elif op.gives == "Y":
        operand = types.get(step.inputs[0]) if op.operand != "none" else None
        try:
            kind, shape = result(step.op, step.attributes, *tensor_type(operand))
        except ValueError as error:
            raise ModelError(f"{step.label}: {error}") from None
        made[0] = helper.make_tensor_type_proto(kind, shape)
    return dict(zip(step.outputs, made, strict=False))


def formal(step: Control, types: Types) -> Ends:
    """Return the types of what the body of a node is given: its formal inputs."""
    scalar = helper.make_tensor_type_proto(TensorProto.INT64, [])
    given = [types.get(name) for name in step.inputs]
    if isinstance(step, Repeat):
        condition = helper.make_tensor_type_proto(TensorProto.BOOL, [])
        return [scalar, condition, *(_open(kind) for kind in given[2 : 2 + step.carried])]
    if isinstance(step, Scan):
        walked = given[step.states : step.states + len(step.input_dims)]
        elements = [_without(kind, dim) for kind, dim in zip(walked, step.input_dims, strict=True)]
        return [*map(_open, given[: step.states]), *elements]
    if isinstance(step, ParallelFor):
        return [scalar, *given[1 : len(step.body.inputs)]]
    return []


def controlled(step: Control, ends: Sequence[Ends]) -> Types:
    """Return the types of what a node gives, from those of what its bodies give."""
    if isinstance(step, Branch):
        made = [_common(a, b) for a, b in zip(*ends, strict=True)]
    elif isinstance(step, Repeat):
        kept, stacked = ends[0][1 : 1 + step.carried], ends[0][1 + step.carried :]
        made = [*map(_open, kept), *(_with(kind, 0) for kind in stacked)]
    elif isinstance(step, Scan):
        kept, stacked = ends[0][: step.states], ends[0][step.states :]
        made = [*map(_open, kept), *map(_with, stacked, step.output_dims)]
    else:
        made = [_resized(kind, step.dim) for kind in ends[0]]
        made = list(ends[0]) if step.returns == "first" else made
    return {name: kind for name, kind in zip(step.outputs, made, strict=False) if name and kind}


def _tensor(kind: TypeProto | None, shape: Shape) -> TypeProto | None:
    """Return a tensor's type with another shape; what is no tensor stays as it is."""
    elem_type, _ = tensor_type(kind)
    return kind if elem_type is None else helper.make_tensor_type_proto(elem_type, shape)


def _open(kind: TypeProto | None) -> TypeProto | None:
    return _tensor(kind, None)


def _common(a: TypeProto | None, b: TypeProto | None) -> TypeProto | None:
    return a if a == b else _open(a)


def _without(kind: TypeProto | None, dim: int) -> TypeProto | None:
    _, shape = tensor_type(kind)
    if shape is None or not -len(shape) <= dim < len(shape):
        return _open(kind)
    dim %= len(shape)
    return _tensor(kind, [*shape[:dim], *shape[dim + 1 :]])


def _with(kind: TypeProto | None, dim: int) -> TypeProto | None:
    _, shape = tensor_type(kind)
    if shape is None:
        return kind
    dim = dim if dim >= 0 else len(shape) + 1 + dim
    return _tensor(kind, [*shape[:dim], None, *shape[dim:]])


def _resized(kind: TypeProto | None, dim: int) -> TypeProto | None:
    _, shape = tensor_type(kind)
    if shape is None or not -len(shape) <= dim < len(shape):
        return _open(kind)
    dims = list(shape)
    dims[dim] = None
    return _tensor(kind, dims)
