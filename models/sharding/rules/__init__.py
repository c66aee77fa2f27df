"""One line per operator: how the dims of its inputs and outputs are tied.

An operator that is absent is computed whole on every rank, and said so in the report.
"""

from __future__ import annotations

from ...contrib import DOMAIN, IN_AI_ONNX
from . import arithmetic as a
from . import structure as s
from .contrib import CONTRIB
from .einsum import einsum
from .rule import Rule
from .rule import each as _each

ELEMENTWISE = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor "
    "Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu "
    "Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh "
    "ThresholdedRelu"
)
BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor CastLike Div Equal Greater GreaterOrEqual "
    "Less LessOrEqual Mod Mul Or PRelu Pow Sub Xor"
)
VARIADIC = "Max Mean Min Sum"
POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool"
WHOLE_REDUCTIONS = "ReduceL2 ReduceLogSum ReduceLogSumExp"


RULES: dict[str, Rule] = {
    **_each(ELEMENTWISE, Rule(einsum("...->..."))),
    **_each(BROADCAST, Rule(einsum("...,...->..."))),
    **_each(VARIADIC, Rule(einsum(",".join(["..."] * 64) + "->..."))),
    "Where": Rule(einsum("...,...,...->...")),
    "Clip": Rule(einsum("...,,->...")),
    "Dropout": Rule(einsum("...,,->...,...")),
    # matrix products and convolutions
    "MatMul": Rule(a.matmul),
    "Gemm": Rule(a.gemm, a.bias_once),
    "Einsum": Rule(a.equation),
    "Conv": Rule(a.conv, a.local_conv),
    # normalisations, poolings, reductions
    "BatchNormalization": Rule(a.batch_normalization),
    "InstanceNormalization": Rule(einsum("bc...!,c,c->bc...")),
    "LayerNormalization": Rule(a.layer_normalization),
    "RMSNormalization": Rule(a.layer_normalization),
    **_each("Softmax LogSoftmax Hardmax", Rule(a.softmax)),
    **_each("ArgMax ArgMin CumSum LpNormalization TopK", Rule(a.along_axis)),
    **_each(POOLS, Rule(a.pool)),
    "MaxPool": Rule(a.max_pool),
    **_each(" ".join(a.COMBINED), Rule(a.reduction)),
    "ReduceMean": Rule(a.reduction, a.local_mean),
    **_each(WHOLE_REDUCTIONS, Rule(a.reduction)),
    # structure
    "Concat": Rule(s.concat),
    **_each("ConstantOfShape Range", Rule(s.made)),
    "Expand": Rule(s.expand, s.local_expand),
    "Flatten": Rule(s.reshape),
    "Gather": Rule(s.gather, s.local_gather),
    "Pad": Rule(s.pad),
    "Reshape": Rule(s.reshape, s.local_reshape),
    "Shape": Rule(s.shape, s.local_shape),
    "Slice": Rule(s.slice_, s.local_slice),
    "Split": Rule(s.split, s.local_split),
    **_each("Squeeze Unsqueeze", Rule(s.same_dims)),
    "Tile": Rule(s.tile),
    "Transpose": Rule(s.transpose),
}
"""Rules of ai.onnx by operator."""


def find_rule(domain: str, op_type: str) -> Rule | None:
    """Return the rule of an operator, None where there is none."""
    if domain in ("", "ai.onnx") and op_type not in IN_AI_ONNX:
        return RULES.get(op_type)
    return CONTRIB.get(op_type) if domain in ("", "ai.onnx", DOMAIN) else None
