"""A node of each operator that may run on rows, fed no rows in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import ranks
from onnx import TensorProto, helper

from rankwise.models.sharding.rules import BROADCAST, ELEMENTWISE, VARIADIC, find_rule

WIDTH = 32
ROWS, VECTOR, MATRIX = (1, 0, WIDTH), (WIDTH,), (WIDTH, WIDTH)

TRUTHS = {"And", "Not", "Or", "Xor"}
INTEGERS = {"BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"}
WITHOUT_KERNEL = {"BitCast", "Swish"}

SPECIAL: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "BiasGelu": ([ROWS, VECTOR], {}),
    "BitShift": ([ROWS, ROWS], {"direction": "LEFT"}),
    "Cast": ([ROWS], {"to": TensorProto.FLOAT16}),
    "CastLike": ([ROWS, VECTOR], {}),
    "Clip": ([ROWS, (), ()], {}),
    "FastGelu": ([ROWS, VECTOR], {}),
    "FusedMatMul": ([ROWS, MATRIX], {"alpha": 0.5}),
    "Gemm": ([(0, WIDTH), MATRIX, VECTOR], {}),
    "LayerNormalization": ([ROWS, VECTOR, VECTOR], {}),
    "MatMul": ([ROWS, MATRIX], {}),
    "MatMulNBits": (
        [ROWS, np.zeros((WIDTH, 1, 16), np.uint8), (WIDTH, 1)],
        {"K": WIDTH, "N": WIDTH, "bits": 4, "block_size": 32},
    ),
    "Mod": ([ROWS, ROWS], {"fmod": 1}),
    "RMSNormalization": ([ROWS, VECTOR], {}),
    "SimplifiedLayerNormalization": ([ROWS, VECTOR], {"axis": -1}),
    "SkipLayerNormalization": ([ROWS, ROWS, VECTOR, VECTOR, VECTOR], {}),
    "SkipSimplifiedLayerNormalization": ([ROWS, ROWS, VECTOR], {}),
    "Transpose": ([ROWS], {"perm": [1, 0, 2]}),
    "Unsqueeze": ([ROWS, np.array([0])], {}),
    "Where": ([np.zeros(ROWS, bool), ROWS, VECTOR], {}),
}


def check(op_type: str) -> None:
    """Run a node on no rows: it must give none."""
    assert find_rule("", op_type) or find_rule("com.microsoft", op_type)
    if op_type in WITHOUT_KERNEL:
        return
    given, attributes = SPECIAL.get(op_type) or _given(op_type)
    arrays = [x if isinstance(x, np.ndarray) else _array(op_type, x) for x in given]
    feeds = {f"x{k}": array for k, array in enumerate(arrays)}
    (made,) = onnxruntime.InferenceSession(_model(op_type, feeds, attributes), ranks.quiet()).run(
        None, feeds
    )
    assert 0 in made.shape


def _given(op_type: str) -> tuple[list[Any], dict[str, Any]]:
    if op_type.startswith("Reduce"):
        return [ROWS, np.array([-1])], {}
    if op_type in VARIADIC.split():
        return [ROWS, VECTOR, ROWS], {}
    if op_type in BROADCAST.split():
        return [ROWS, ROWS], {}
    assert op_type in (*ELEMENTWISE.split(), "Dropout", "LogSoftmax", "QuickGelu", "Softmax")
    return [ROWS], {}


def _array(op_type: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    kinds = {**dict.fromkeys(TRUTHS, "?"), **dict.fromkeys(INTEGERS, "u1")}
    return np.ones(shape, kinds.get(op_type, "f4"))


def _model(op_type: str, feeds: dict[str, Any], attributes: dict[str, Any]) -> bytes:
    domain = "" if find_rule("", op_type) else "com.microsoft"
    node = helper.make_node(op_type, list(feeds), ["y"], domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
        )
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "rows", inputs, [helper.make_empty_tensor_value_info("y")])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())
