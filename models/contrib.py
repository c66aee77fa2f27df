"""What onnxruntime's own operators make: types and shapes, which onnx does not know.

Exporters and onnxruntime's optimisers write them into files, in domain com.microsoft, and one of
them in that of ai.onnx. They are a table here and no schemas registered with onnx: those would
hold for the whole process, onnx's checker would refuse what ours do not list, and a program that
registers its own under the same names could not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, defs, helper
from onnx.shape_inference import infer_node_outputs

from .nodes import attribute

DOMAIN = "com.microsoft"

IN_AI_ONNX = {"SimplifiedLayerNormalization"}
"""Operators that onnxruntime adds to the domain of ai.onnx."""

STAND_IN_OPSET = 13
"""Of the operators of ai.onnx whose shapes others have too."""

Shape = tuple[int, ...]


class Known(NamedTuple):
    """What is known of a tensor."""

    data_type: int
    shape: Shape
    value: npt.NDArray[Any] | None = None
    """contents, where they do not depend on what is fed"""


@dataclass(frozen=True)
class Operands:
    """A node and its inputs."""

    node: NodeProto
    inputs: Sequence[Known | None]
    """None for what is absent or unknown"""

    def has(self, position: int) -> bool:
        return position < len(self.node.input) and bool(self.node.input[position])

    def __getitem__(self, position: int) -> Known:
        """Return an input. Raises LookupError where it is absent or unknown."""
        found = self.inputs[position]
        if found is None:
            raise LookupError(f"input {position} is unknown")
        return found

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def number(self, name: str) -> int:
        """Return an attribute that the operator cannot do without. Raises LookupError."""
        value = self.attribute(name)
        if not isinstance(value, int):
            raise LookupError(f"attribute {name} is absent")
        return value


Made = Sequence[Known]
Infer = Callable[[Operands], Made]


def is_contrib(node: NodeProto) -> bool:
    """Say whether a node is one of onnxruntime's operators."""
    return node.domain == DOMAIN or (not node.domain and node.op_type in IN_AI_ONNX)


def made(node: NodeProto, inputs: Sequence[Known | None]) -> Made:
    """Return types and shapes of the outputs, in their order; absent ones may be among them.

    Raises LookupError for an operator without an entry, or where a shape that it takes is unknown.
    """
    return TABLE[node.op_type](Operands(node, inputs))


def same(given: Operands) -> Made:
    return [given[0]]


def standard(op_type: str, *positions: int, typed: int = 0) -> Infer:
    """Return the inference of an operator of ai.onnx, asked with some of the inputs.

    The output has the element type of input `typed`.
    """

    def infer(given: Operands) -> Made:
        shape = _standard_shape(op_type, [given[k].shape for k in positions], given)
        return [Known(given[typed].data_type, shape)]

    return infer


def _standard_shape(op_type: str, shapes: Sequence[Shape], given: Operands) -> Shape:
    """Ask onnx. Raises LookupError where it does not find all of the shape."""
    if given.attribute("channels_last"):
        raise LookupError("the channels come last")
    schema = defs.get_schema(op_type, STAND_IN_OPSET)
    names = [str(k) for k in range(len(shapes))]
    node = helper.make_node(op_type, names, ["y"])
    node.attribute.extend(e for e in given.node.attribute if e.name in schema.attributes)
    types = {
        name: helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
        for name, shape in zip(names, shapes, strict=True)
    }
    found = infer_node_outputs(schema, node, types)["y"].tensor_type
    if not all(dim.HasField("dim_value") for dim in found.shape.dim):
        raise LookupError(f"{op_type} has no shape")
    return tuple(dim.dim_value for dim in found.shape.dim)


def concatenated(given: Operands) -> Made:
    """Concatenate every third input from the third on; between them are scales."""
    shapes = [given[k].shape for k in range(2, len(given.inputs), 3)]
    return [Known(given[1].data_type, _standard_shape("Concat", shapes, given))]


def layer_normalization(given: Operands) -> Made:
    """The result, and two statistics (one, without a mean) of what is normalised."""
    x = given[0]
    axis = given.attribute("axis", -1) % len(x.shape)
    statistics = Known(TensorProto.FLOAT, (*x.shape[:axis], *(1 for _ in x.shape[axis:])))
    return [Known(given[1].data_type, x.shape), statistics, statistics]


def skip_normalization(given: Operands) -> Made:
    x = given[0]
    statistics = Known(TensorProto.FLOAT, (*x.shape[:-1], 1))
    return [x, statistics, statistics, x]


def fused_matmul(given: Operands) -> Made:
    a, b = given[0], given[1]
    if given.attribute("transBatchA") or given.attribute("transBatchB"):
        raise LookupError("the dims of the batch are transposed")
    left = _swapped(a.shape) if given.attribute("transA") else a.shape
    right = _swapped(b.shape) if given.attribute("transB") else b.shape
    return [Known(a.data_type, _standard_shape("MatMul", [left, right], given))]


def _swapped(shape: Shape) -> Shape:
    return shape if len(shape) < 2 else (*shape[:-2], shape[-1], shape[-2])


def matmul_integer(given: Operands) -> Made:
    shape = _standard_shape("MatMul", [given[0].shape, given[1].shape], given)
    return [Known(TensorProto.INT32, shape)]


def quantised_gemm(given: Operands) -> Made:
    shape = _standard_shape("Gemm", [given[0].shape, given[3].shape], given)
    is_float = not given.has(7)
    return [Known(TensorProto.FLOAT if is_float else given[0].data_type, shape)]


def matmul_nbits(given: Operands) -> Made:
    a = given[0]
    return [Known(a.data_type, (*a.shape[:-1], given.number("N")))]


def gather_block_quantized(given: Operands) -> Made:
    """Rows of a table; of a uint8 table, several elements are in a byte of the last dim."""
    table, ids = given[0], given[1]
    shape = list(table.shape)
    if table.data_type == TensorProto.UINT8:
        shape[-1] *= 8 // given.attribute("bits", 4)
    axis = given.attribute("gather_axis", 0) % len(shape)
    return [Known(given[2].data_type, (*shape[:axis], *ids.shape, *shape[axis + 1 :]))]


def attention(given: Operands) -> Made:
    """Self-attention that makes queries, keys and values itself: Attention and QAttention."""
    is_quantised = given.node.op_type == "QAttention"
    x, weights, past = given[0], given[1], 8 if is_quantised else 4
    heads = given.number("num_heads")
    value = (given.attribute("qkv_hidden_sizes") or [weights.shape[1] // 3])[-1]
    kind = given[3].data_type if is_quantised else x.data_type
    batch, length, _ = x.shape
    before = given[past].shape[3] if given.has(past) else 0
    present = (2, batch, heads, before + length, value // heads)
    return [Known(kind, (batch, length, value)), Known(kind, present)]


def multi_head_attention(given: Operands) -> Made:
    query, heads = given[0], given.number("num_heads")
    key = query if len(query.shape) == 5 else given[1]
    value = given[2] if given.has(2) else key
    batch, length = query.shape[:2]
    total = key.shape[2 if len(key.shape) == 4 else 1]
    if given.has(6):
        total += given[6].shape[2]
    widths = [_head_width(tensor, heads) for tensor in (key, value)]
    return [
        Known(query.data_type, (batch, length, heads * widths[1])),
        *(Known(query.data_type, (batch, heads, total, width)) for width in widths),
        Known(query.data_type, (batch, heads, length, total)),
    ]


def _head_width(tensor: Known, heads: int) -> int:
    return tensor.shape[-1] if len(tensor.shape) > 3 else tensor.shape[-1] // heads


def grouped_query_attention(given: Operands) -> Made:
    query = given[0]
    heads, groups = given.number("num_heads"), given.number("kv_num_heads")
    batch, length, width = query.shape
    if not given.has(1):  # queries, keys and values beside each other
        width = width * heads // (heads + 2 * groups)
    total = _cache_length(given, length)
    kinds = [given[k].data_type if given.has(k) else query.data_type for k in (3, 4)]
    return [
        Known(query.data_type, (batch, length, width)),
        *(Known(kind, (batch, groups, total, width // heads)) for kind in kinds),
        Known(query.data_type, (batch, heads, length, total)),
    ]


def _cache_length(given: Operands, length: int) -> int:
    """Return the length of the cache after the run.

    Where the total is known only when the model runs, it is taken for that of what was before and
    of what is new, as decoders call it.
    """
    before = given[3].shape[2] if given.has(3) else 0
    if given.attribute("sliding_window_cache"):
        return before
    total = given.inputs[6]
    value = None if total is None else total.value
    return max(before, int(np.reshape(value, ()))) if value is not None else before + length


def _each(names: str, infer: Infer) -> dict[str, Infer]:
    return dict.fromkeys(names.split(), infer)


SAME = (
    "FastGelu Gelu MoE QLinearLeakyRelu QLinearSigmoid QLinearSoftmax QMoE QuickGelu "
    "RotaryEmbedding"
)

TABLE: dict[str, Infer] = {
    **_each(SAME, same),
    "BiasGelu": standard("Add", 0, 1),
    "QLinearAdd": standard("Add", 0, 3),
    "QLinearMul": standard("Mul", 0, 3),
    "QLinearWhere": standard("Sum", 0, 1, 4, typed=1),
    "QLinearConcat": concatenated,
    "QLinearGlobalAveragePool": standard("GlobalAveragePool", 0),
    "QLinearAveragePool": standard("AveragePool", 0),
    "QuantizeLinear": standard("Identity", 0, typed=2),
    "DequantizeLinear": standard("Identity", 0, typed=1),
    "FusedConv": standard("Conv", 0, 1),
    "FusedGemm": standard("Gemm", 0, 1),
    **_each("FusedMatMul TransposeMatMul", fused_matmul),
    "MatMulInteger16": matmul_integer,
    **_each("DynamicQuantizeMatMul MatMulIntegerToFloat", standard("MatMul", 0, 1, typed=2)),
    "QGemm": quantised_gemm,
    "MatMulNBits": matmul_nbits,
    "GatherBlockQuantized": gather_block_quantized,
    **_each("LayerNormalization SimplifiedLayerNormalization", layer_normalization),
    **_each("SkipLayerNormalization SkipSimplifiedLayerNormalization", skip_normalization),
    **_each("Attention QAttention", attention),
    "MultiHeadAttention": multi_head_attention,
    "GroupQueryAttention": grouped_query_attention,
}
"""Inference by operator."""
