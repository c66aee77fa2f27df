"""One line per operator: how the dims of its inputs and outputs are tied.

An operator that is absent is computed whole on every rank, and the report names it; those of
`replicated` with a reason.
"""

from __future__ import annotations

from ...contrib import DOMAIN, IN_AI_ONNX
from . import (
    arithmetic,
    attention,
    control,
    convolution,
    image,
    indexing,
    quantization,
    recurrent,
    slicing,
    structure,
)
from .contrib import CONTRIB
from .einsum import einsum
from .replicated import REPLICATED
from .rule import Rule, whole
from .rule import each as _each
from .stepwise import written_out

ELEMENTWISE = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Cast CastLike Ceil Celu Cos "
    "Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish "
    "Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt "
    "Swish Tan Tanh ThresholdedRelu"
)
BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual "
    "Less LessOrEqual Mod Mul Or PRelu Pow Sub Xor"
)
VARIADIC = "Max Mean Min Sum"
POOLS = "GlobalLpPool LpPool"
WHOLE_REDUCTIONS = "ReduceL2 ReduceLogSum ReduceLogSumExp"


RULES: dict[str, Rule] = {
    **_each(ELEMENTWISE, Rule(einsum("...->..."))),
    **_each(BROADCAST, Rule(einsum("...,...->..."))),
    **_each(VARIADIC, Rule(einsum(",".join(["..."] * 64) + "->..."))),
    "Where": Rule(einsum("...,...,...->...")),
    "Clip": Rule(einsum("...,,->...")),
    "Dropout": Rule(arithmetic.dropout),
    # matrix products and convolutions
    "MatMul": Rule(arithmetic.matmul),
    "Gemm": Rule(arithmetic.gemm, convolution.bias_once),
    "Einsum": Rule(arithmetic.equation),
    "Conv": Rule(convolution.conv, convolution.local_conv),
    "ConvTranspose": Rule(convolution.conv_transpose, convolution.local_conv_transpose),
    "DeformConv": Rule(convolution.deform_conv, convolution.local_deform_conv),
    "Det": Rule(einsum("...r!c!->...")),
    # attention and recurrences
    "Attention": Rule(attention.attention, attention.local_attention),
    "RotaryEmbedding": Rule(attention.rotary_embedding, attention.local_rotary_embedding),
    **_each("GRU LSTM RNN", Rule(recurrent.recurrent, write_out=written_out)),
    "ReverseSequence": Rule(recurrent.reverse_sequence),
    # quantized
    **_each("DequantizeLinear QuantizeLinear", Rule(quantization.quantize)),
    "MatMulInteger": Rule(quantization.matmul_integer),
    "QLinearMatMul": Rule(quantization.qlinear_matmul),
    "ConvInteger": Rule(convolution.conv_integer, convolution.local_conv_integer),
    "QLinearConv": Rule(convolution.qlinear_conv, convolution.local_qlinear_conv),
    # normalisations, poolings, reductions
    "BatchNormalization": Rule(arithmetic.batch_normalization),
    "InstanceNormalization": Rule(einsum("bc...!,c,c->bc...")),
    "GroupNormalization": Rule(arithmetic.groups, arithmetic.local_groups),
    "LRN": Rule(einsum("bc!...->bc...")),
    "MeanVarianceNormalization": Rule(arithmetic.along_dims),
    "LayerNormalization": Rule(arithmetic.layer_normalization),
    "RMSNormalization": Rule(arithmetic.layer_normalization),
    **_each("Softmax LogSoftmax Hardmax", Rule(arithmetic.softmax)),
    **_each("ArgMax ArgMin CumProd CumSum LpNormalization TopK", Rule(arithmetic.along_axis)),
    **_each(POOLS, Rule(arithmetic.pool)),
    "AveragePool": Rule(arithmetic.kernel_pool, arithmetic.local_pool),
    "GlobalAveragePool": Rule(arithmetic.global_pool, arithmetic.local_mean),
    "GlobalMaxPool": Rule(arithmetic.global_pool),
    "MaxPool": Rule(arithmetic.max_pool, arithmetic.local_pool),
    **_each(" ".join(arithmetic.COMBINED), Rule(arithmetic.reduction)),
    "ReduceMean": Rule(arithmetic.reduction, arithmetic.local_mean),
    **_each(WHOLE_REDUCTIONS, Rule(arithmetic.reduction)),
    "DFT": Rule(arithmetic.fourier),
    "STFT": Rule(arithmetic.windows),
    # images
    "CenterCropPad": Rule(image.center_crop_pad),
    "Col2Im": Rule(image.column_to_image),
    "DepthToSpace": Rule(image.depth_to_space),
    "GridSample": Rule(image.grid_sample),
    "MaxRoiPool": Rule(einsum("b!ch!w!,nr!->nc...")),
    **_each("Resize Upsample", Rule(image.resize, image.local_resize)),
    "RoiAlign": Rule(einsum("b!ch!w!,nr!,n->nc...")),
    "SpaceToDepth": Rule(image.space_to_depth),
    # elements by their numbers
    "Compress": Rule(indexing.compress),
    "Gather": Rule(indexing.gather, indexing.local_gather),
    "GatherElements": Rule(indexing.gather_elements),
    "GatherND": Rule(indexing.gather_nd, indexing.local_gather_nd),
    "OneHot": Rule(indexing.one_hot),
    **_each("Scatter ScatterElements", Rule(indexing.scatter_elements)),
    "ScatterND": Rule(indexing.scatter_nd),
    "TensorScatter": Rule(indexing.tensor_scatter),
    # bodies
    "If": Rule(control.branch),
    "Loop": Rule(control.loop),
    "Scan": Rule(control.scan),
    # structure
    "Concat": Rule(structure.concat),
    **_each("Constant ConstantOfShape Range", Rule(structure.made)),
    "Expand": Rule(structure.expand, structure.local_expand),
    "Flatten": Rule(structure.reshape),
    "Pad": Rule(structure.pad),
    "Reshape": Rule(structure.reshape, structure.local_reshape),
    "Shape": Rule(structure.shape, structure.local_shape),
    "Size": Rule(structure.size, structure.local_size),
    "Slice": Rule(slicing.slice_, slicing.local_slice),
    "Split": Rule(structure.split, structure.local_split),
    "Squeeze": Rule(structure.squeeze, structure.local_squeeze),
    "Tile": Rule(structure.tile),
    "Transpose": Rule(structure.transpose),
    "Trilu": Rule(structure.trilu),
    "Unsqueeze": Rule(structure.same_dims),
}
"""Rules of ai.onnx by operator."""


WHOLE = {name: whole(reason) for name, reason in REPLICATED.items()}
"""Those of ai.onnx that are computed whole."""


def find_rule(domain: str, op_type: str) -> Rule | None:
    """Return the rule of an operator, None where there is none."""
    if domain in ("", "ai.onnx") and op_type not in IN_AI_ONNX:
        return RULES.get(op_type) or WHOLE.get(op_type)
    return CONTRIB.get(op_type) if domain in ("", "ai.onnx", DOMAIN) else None
