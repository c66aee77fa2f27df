"""The operators of domain "rankwise": communication between ranks, written as ONNX nodes.

Importing this module registers their schemas with onnx, so that its checker and its shape
inference know them. One table says what each operator takes, gives and does to shapes; the plan
and the runtime read the same table.

Operands come first, then an int64 scalar `dest` or `source`, then any number of tokens (`after`):
bool scalars that other communication nodes gave, and that order two nodes without data between
them. So does the attribute `order`, a number. Nodes that state neither keep the order of the file.
None of them is a pure function, and none may be removed, doubled or reordered: their schemas are
NonDeterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx

# First: its table of operators by name cannot be built once two domains have a Gather.
import onnx.reference
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, helper
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceContext

DOMAIN, VERSION = "rankwise", 1

Dim = int | str | None
Shape = Sequence[Dim] | None
"""None where the rank is unknown"""

Kind = OpSchema.AttrType

ELEMENTS = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float", "double", "complex64", "complex128",
    "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
)  # fmt: skip
"""Element types, by the names that onnx's schemas have for them."""

TENSORS = tuple(f"tensor({name})" for name in ELEMENTS)


@dataclass(frozen=True)
class Op:
    """What one operator takes and gives."""

    doc: str
    operand: Literal["none", "required", "optional"] = "required"
    peer: str | None = None
    """the int64 scalar that names another rank of the group"""
    gives: Literal["Y", "scalar", "token"] = "Y"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """default by name; a type where there is none"""
    resized: tuple[str, ...] = ()
    """the attributes that name dims whose length differs between operand and result"""
    is_effect: bool = True
    """False for an operator that sends nothing, and so has no place in the order"""


DTYPE = {"dtype": Kind.INT}
"""A TensorProto.DataType, for ranks on which no operand says it."""

OPS = {
    "Rank": Op(
        "The number of this rank within its group: 0 to Size() - 1.",
        operand="none", gives="scalar", is_effect=False,
    ),
    "Size": Op(
        "The number of ranks in the group.", operand="none", gives="scalar", is_effect=False
    ),
    "Send": Op(
        "Send X to rank dest. It does not block: X is buffered, and has left when the graph ends.",
        peer="dest", gives="token", attributes={"tag": 0},
    ),
    "Recv": Op(
        "Receive from rank source the oldest tensor with that tag. Without the attribute shape, "
        "the shape travels with the data; with it, another shape is an error.",
        operand="none", peer="source", attributes={**DTYPE, "shape": Kind.INTS, "tag": 0},
    ),
    "AllReduce": Op(
        "Combine the X of all ranks element by element; every rank gets the result.",
        attributes={"op": "sum"},
    ),
    "AllGather": Op(
        "Concatenate the X of all ranks along dim; every rank gets the result.",
        attributes={"dim": 0}, resized=("dim",),
    ),
    "ReduceScatter": Op(
        "Combine the X of all ranks; rank r gets part r along dim, cut as numpy.array_split does.",
        attributes={"op": "sum", "dim": 0}, resized=("dim",),
    ),
    "AllToAll": Op(
        "Cut X along split_dim, part r for rank r; concatenate what comes along concat_dim.",
        attributes={"split_dim": 0, "concat_dim": 0}, resized=("split_dim", "concat_dim"),
    ),
    "Broadcast": Op(
        "Every rank gets the X of rank root.",
        operand="optional", attributes={"root": 0, **DTYPE},
    ),
    "Scatter": Op(
        "Rank r gets part r of root's X along dim, cut as numpy.array_split does.",
        operand="optional", attributes={"root": 0, "dim": 0, **DTYPE}, resized=("dim",),
    ),
    "Gather": Op(
        "Rank root gets the X of all ranks along dim; elsewhere Y is empty along dim.",
        attributes={"root": 0, "dim": 0}, resized=("dim",),
    ),
    "Reduce": Op(
        "Combine the X of all ranks; rank root gets the result, elsewhere Y is X.",
        attributes={"root": 0, "op": "sum"},
    ),
    "Barrier": Op(
        "Go on when every rank of the group is here.", operand="none", gives="token"
    ),
}  # fmt: skip

GROUP = ("groups", "group_size", "axis_name")
"""Attributes that say which ranks take part."""

DIMS = ("dim", "split_dim", "concat_dim")
"""Attributes that name dims of an operand."""

COMMON = {
    "groups": Kind.INTS,
    "group_size": Kind.INT,
    "axis_name": Kind.STRING,
    "algorithm": "auto",
}
"""Which ranks take part, and how. `groups` lists the ranks of all groups one after another, each
of group_size; axis_name is an axis of the mesh in metadata_props["rankwise.mesh"], or NAME.tp of
that in metadata_props["rankwise.mesh.NAME"]; else all."""

ANNOTATION = {"order": Kind.INT, "effects": Kind.INT}
"""The place of an effect among those of its graph: a larger one comes later; and how many there
are, which is checked where it is given."""


def is_ours(node: NodeProto) -> bool:
    """Say whether a node is one of the operators of this domain."""
    return node.domain == DOMAIN


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes and defaults; what is absent and has no default is left out.

    Raises ValueError where onnx would refuse the node, an unknown operator or attribute, and for a
    dtype that no tensor has.
    """
    if node.op_type not in OPS:
        raise ValueError(f"expected an operator of {', '.join(OPS)}, got {node.op_type!r}")
    values = with_defaults(node, _declared(OPS[node.op_type]))
    if "dtype" in values and values["dtype"] not in map(_data_type, ELEMENTS):
        raise ValueError(f"expected dtype to be that of a tensor, got {values['dtype']!r}")
    return values


def _data_type(element: str) -> int:
    return int(TensorProto.DataType.Value(element.upper()))


def with_defaults(node: NodeProto, declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's attributes, with the defaults of those that are declared.

    Raises ValueError for one that is not, and for one of another type.
    """
    values = {name: value for name, value in declared.items() if not isinstance(value, Kind)}
    for entry in node.attribute:
        if entry.name not in declared:
            raise ValueError(
                f"expected attributes of {node.op_type} among {', '.join(declared)}, "
                f"got {entry.name!r}"
            )
        wanted = _kind(declared[entry.name])
        value = helper.get_attribute_value(entry)
        if entry.type != wanted:
            name = AttributeProto.AttributeType.Name(wanted)
            raise ValueError(f"expected the attribute {entry.name} to be {name}, got {value!r}")
        values[entry.name] = value.decode() if isinstance(value, bytes) else value
    return values


KINDS = {
    Kind.INT: AttributeProto.INT,
    Kind.INTS: AttributeProto.INTS,
    Kind.STRING: AttributeProto.STRING,
    Kind.GRAPH: AttributeProto.GRAPH,
}
"""Types of attributes, as schemas and as nodes name them."""


def _kind(declared: Any) -> AttributeProto.AttributeType:
    """Return the type of an attribute that is declared by a type or a default."""
    if isinstance(declared, Kind):
        return KINDS[declared]
    return AttributeProto.STRING if isinstance(declared, str) else AttributeProto.INT


def result(
    op_type: str, values: Mapping[str, Any], elem_type: int | None, shape: Shape
) -> tuple[int, Shape]:
    """Return element type and shape of Y, given the attributes and those of X (None if absent).

    Raises ValueError where neither X nor the attribute dtype gives an element type.
    """
    op = OPS[op_type]
    kind = elem_type or values.get("dtype")
    if kind is None:
        raise ValueError(f"{op_type} without an operand needs the attribute dtype")
    if op_type == "Recv":
        return kind, values.get("shape")
    if shape is None or elem_type is None:
        return kind, None
    # A scalar counts as one element, and has a dim where one is needed.
    dims = list(shape) or [1] * bool(op.resized)
    for name in op.resized:
        if -len(dims) <= values[name] < len(dims):
            dims[values[name]] = None
    return kind, dims


def _declared(op: Op) -> dict[str, Any]:
    return {**op.attributes, **COMMON, **(ANNOTATION if op.is_effect else {})}


def register() -> None:
    """Make the operators known to onnx; a second call does nothing."""
    for name, op in OPS.items():
        if not onnx.defs.has(name, VERSION, DOMAIN):
            onnx.defs.register_schema(_schema(name, op))


def _schema(name: str, op: Op) -> OpSchema:
    optional = OpSchema.FormalParameterOption.Optional
    variadic = OpSchema.FormalParameterOption.Variadic
    parameter = OpSchema.FormalParameter
    inputs = list[OpSchema.FormalParameter]()
    if op.operand == "required":
        inputs.append(parameter("X", "T", "this rank's tensor"))
    if op.operand == "optional":
        inputs.append(parameter("X", "T", '"" away from root', param_option=optional))
    if op.peer is not None:
        inputs.append(parameter(op.peer, "tensor(int64)", "a rank of the group"))
    if op.is_effect:
        inputs.append(
            parameter(
                "after", "B", "tokens of what must be done", param_option=variadic, min_arity=0
            )
        )
    outputs = list[OpSchema.FormalParameter]()
    if op.gives == "Y":
        outputs.append(parameter("Y", "T", "the result"))
    if op.gives == "scalar":
        outputs.append(parameter("value", "tensor(int64)", "a scalar"))
    elif name == "Barrier":
        # A node without inputs and outputs is no valid ONNX, so this token is not optional.
        outputs.append(parameter("token", "B", "true, when it is done"))
    else:
        outputs.append(parameter("token", "B", "true, when it is done", param_option=optional))
    constraints = [("B", ["tensor(bool)"], "tokens")] if op.is_effect else []
    if op.operand != "none" or op.gives == "Y":
        constraints.append(("T", list(TENSORS), "any tensor but of strings"))
    schema = OpSchema(  # type: ignore[call-arg]  # onnx's stub lacks node_determinism
        name, DOMAIN, VERSION, op.doc,
        inputs=inputs, outputs=outputs, type_constraints=constraints,
        attributes=[formal_attribute(key, value) for key, value in _declared(op).items()],
        node_determinism=OpSchema.NodeDeterminism.NonDeterministic,
    )  # fmt: skip
    schema.set_type_and_shape_inference_function(_inference(name, op))
    return schema


def formal_attribute(name: str, value: Any) -> OpSchema.Attribute:
    """Declare an optional attribute: by its default, or its type where it has none."""
    if isinstance(value, Kind):
        return OpSchema.Attribute(name, value, required=False)
    return OpSchema.Attribute(name, helper.make_attribute(name, value))


def _inference(name: str, op: Op) -> Any:
    def infer(context: InferenceContext) -> None:
        if op.gives == "scalar":
            context.set_output_type(0, helper.make_tensor_type_proto(TensorProto.INT64, []))
            return
        token = context.get_num_outputs() - 1 if op.gives == "token" else 1
        if 0 <= token < context.get_num_outputs():
            kind = helper.make_tensor_type_proto(onnx.TensorProto.BOOL, [])
            context.set_output_type(token, kind)
        if op.gives == "Y":
            _infer_result(name, op, context)

    return infer


def _infer_result(name: str, op: Op, context: InferenceContext) -> None:
    found = {key: context.get_attribute(key) for key in _declared(op)}
    values = {key: helper.get_attribute_value(e) for key, e in found.items() if e is not None}
    defaults = {key: v for key, v in _declared(op).items() if not isinstance(v, Kind)}
    operand = context.get_input_type(0) if op.operand != "none" and context.has_input(0) else None
    elem_type, shape = tensor_type(operand)
    kind, dims = result(name, defaults | values, elem_type, shape)
    context.set_output_type(0, helper.make_tensor_type_proto(kind, dims))


def tensor_type(proto: TypeProto | None) -> tuple[int | None, Shape]:
    """Return element type and shape of a tensor's type, None for what it does not say."""
    if proto is None or not proto.HasField("tensor_type"):
        return None, None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type or None, None
    dims = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in tensor.shape.dim
    ]
    return tensor.elem_type or None, dims


register()
