"""Reductions of float16 by onnxruntime, where there is no numba.

numpy has no fast conversion between float16 and float32, and onnxruntime has. Which of 0 and -0 is
its larger or smaller depends on their place in an array, so these operations stay numpy's; and for
bfloat16 it is no faster than numpy.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from ..collectives.kernels import HAS_NUMBA, Array, Kernel, in_float32
from ..collectives.reduction import put

OPERATORS = {"sum": "Add", "prod": "Mul", "div": "Div"}
UFUNCS = {"Add": np.add, "Mul": np.multiply, "Div": np.divide}
FEW_ELEMENTS = 2 << 10  # below which numpy is done sooner
TILE = 256 << 10  # bytes: a call takes 13 us, as 40 Ki elements do
IR_VERSION, OPSET = 8, 13


def install() -> None:
    """Put the kernels into the table of the collectives, unless better ones are there."""
    if not HAS_NUMBA:
        for op, operator in OPERATORS.items():
            put(op, "float16", Kernel(functools.partial(combine, operator), tile=TILE))


def combine(operator: str, left: Array, right: Array, *, out: Array) -> None:
    """Combine flat arrays of float16 or float32; `out` may be one of the operands."""
    if out.size < FEW_ELEMENTS:
        in_float32(UFUNCS[operator], left, right, out=out)
        return
    session = opened(operator, left.dtype, right.dtype, out.dtype)
    binding = session.io_binding()
    for name, array in (("left", left), ("right", right)):
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
    session.run_with_iobinding(binding)


@functools.cache
def opened(
    operator: str, left: np.dtype[Any], right: np.dtype[Any], out: np.dtype[Any]
) -> onnxruntime.InferenceSession:
    """A session that computes in float32. One thread: the ranks have the other cores."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), ["n"])
        for name, dtype in (("left", left), ("right", right), ("out", out))
    ]
    nodes = [
        helper.make_node("Cast", ["left"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["right"], ["y"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["x", "y"], ["z"]),
        helper.make_node("Cast", ["z"], ["out"], to=values[2].type.tensor_type.elem_type),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "kernel", values[:2], values[2:]),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
