"""What is known of the values of a model without running it: types and small integers."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, TypeProto, helper, numpy_helper, shape_inference

from .imports import with_imports


def inferred(model: ModelProto) -> ModelProto:
    """Return a model with what onnx infers of types; as it is, where onnx thinks it wrong.

    onnxruntime may still run it.
    """
    try:
        return shape_inference.infer_shapes(with_imports(model))
    except Exception:  # of one kind or another, as operators have it
        return model


def types(model: ModelProto) -> dict[str, TypeProto]:
    """Return the types of a graph's values, as far as they can be inferred."""
    graph = inferred(model).graph
    given = {
        tensor.name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    }
    values = (*graph.input, *graph.value_info, *graph.output)
    return given | {value.name: value.type for value in values}


def integers(model: ModelProto) -> dict[str, int]:
    """Return the int64 scalars among a graph's constants, by name; not those in other files."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = dict[str, int]()
    for node in model.graph.node:
        for entry in node.attribute if node.op_type == "Constant" else ():
            if entry.name == "value":
                tensors[node.output[0]] = entry.t
            elif entry.name == "value_int":
                found[node.output[0]] = entry.i
    for name, tensor in tensors.items():
        is_here = tensor.data_location != TensorProto.EXTERNAL
        is_integer = tensor.data_type == TensorProto.INT64 and list(tensor.dims) in ([], [1])
        if is_here and is_integer:
            found[name] = int(numpy_helper.to_array(tensor).reshape(()))
    return found
