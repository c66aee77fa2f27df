"""The schemas of domain rankwise, as onnx sees them."""

import onnx
import pytest
from onnx import TensorProto, checker, helper, parser, shape_inference
from onnx.defs import OpSchema

from rankwise.models import opset

HEADER = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'


def inferred(body: str, ends: str = "(float[4,6] x) => (y)") -> onnx.TypeProto.Tensor:
    """The type of y, after a full check of the model."""
    model = parser.parse_model(f"{HEADER} g {ends} {{ {body} }}")
    types = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    return types.graph.output[0].type.tensor_type


def dims(tensor: onnx.TypeProto.Tensor) -> list[object] | None:
    """Sizes; None for one that is not known, which onnx gives a name of its own."""
    if not tensor.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]


def test_every_operator_is_registered_documented_and_an_effect() -> None:
    for name in opset.OPS:
        schema = onnx.defs.get_schema(name, opset.VERSION, opset.DOMAIN)
        assert len(schema.doc) > 20
        assert schema.node_determinism == OpSchema.NodeDeterminism.NonDeterministic


def test_registering_twice_does_nothing() -> None:
    opset.register()
    assert onnx.defs.has("AllReduce", 1, "rankwise")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("AllReduce(x)", [4, 6]),
        ("Broadcast(x)", [4, 6]),
        ('Reduce<op="max">(x)', [4, 6]),
        ("AllGather<dim=1>(x)", [4, None]),
        ("ReduceScatter<dim=-1>(x)", [4, None]),
        ("Scatter(x)", [None, 6]),
        ("Gather<root=1>(x)", [None, 6]),
        ("AllToAll<concat_dim=1>(x)", [None, None]),
    ],
)
def test_shapes_follow_the_operand(node: str, expected: list[object]) -> None:
    result = inferred(f"y = rankwise.{node}")
    assert result.elem_type == TensorProto.FLOAT
    assert dims(result) == expected


def test_the_type_of_an_absent_operand_is_an_attribute() -> None:
    result = inferred('y = rankwise.Broadcast<dtype=10>("")')
    assert (result.elem_type, dims(result)) == (TensorProto.FLOAT16, None)
    result = inferred("s = rankwise.Rank() y = rankwise.Recv<dtype=7, shape=[2,3]>(s)")
    assert (result.elem_type, dims(result)) == (TensorProto.INT64, [2, 3])


def test_tokens_are_bool_scalars_and_chain() -> None:
    result = inferred(
        "r = rankwise.Rank() t = rankwise.Send(x, r) g, t2 = rankwise.AllGather(x, t) "
        "y = rankwise.Barrier(t, t2)"
    )
    assert (result.elem_type, dims(result)) == (TensorProto.BOOL, [])


def test_ranks_are_int64_scalars() -> None:
    result = inferred("y = rankwise.Size()")
    assert (result.elem_type, dims(result)) == (TensorProto.INT64, [])


def test_the_checker_refuses_what_the_schema_has_not() -> None:
    for node in ("rankwise.AllReduce<axis=1>(x)", "rankwise.AllReduce()"):
        model = parser.parse_model(f"{HEADER} g (float[4] x) => (float[4] y) {{ y = {node} }}")
        with pytest.raises(checker.ValidationError):
            checker.check_model(model)


def test_attributes_come_with_defaults_and_strings() -> None:
    node = helper.make_node("AllGather", ["x"], ["y"], domain="rankwise", dim=2, axis_name="tp")
    assert opset.attributes(node) == {"dim": 2, "axis_name": "tp", "algorithm": "auto"}


def test_a_result_without_any_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="Scatter without an operand needs the attribute dtype"):
        opset.result("Scatter", {"dim": 0}, None, None)
