"""Rules of onnxruntime's own operators, in domain com.microsoft, and one in that of ai.onnx.

An operator that is absent is computed whole on every rank, as is one whose rule says why.
"""

from __future__ import annotations

from ..axes import Conflict
from ..site import Site
from . import arithmetic, contrib_attention, contrib_experts, contrib_quantised, convolution
from .einsum import apply, einsum
from .rule import Rule, each, whole


def fused_matmul(site: Site) -> None:
    if site.attribute("transBatchA", 0) or site.attribute("transBatchB", 0):
        raise Conflict("the dims of the batch are transposed")
    left = "k" if site.tensor(0).rank == 1 else "mk"
    right = "k" if site.tensor(1).rank == 1 else "kn"
    made = "..." + "m" * (left != "k") + "n" * (right != "k")
    left = left[::-1] if site.attribute("transA", 0) else left
    right = right[::-1] if site.attribute("transB", 0) else right
    apply(site, [f"...{left}", f"...{right}"], [made])


def fused_gemm(site: Site) -> None:
    arithmetic.gemm(site)
    _activate(site)


def fused_conv(site: Site) -> None:
    convolution.conv(site)
    if site.has(3):
        site.tie_all(site.tensor(3).axes, site.output().axes)
    _activate(site)


def _activate(site: Site) -> None:
    """Need whole what is summed over: the activation is that of the sum, not of its parts."""
    if site.attribute("activation", ""):
        site.whole(*(entry.axis for entry in site.contracted))
        site.contracted.clear()


S = contrib_quantised.SCALE
BINARY = f"...,{S},{S},...,{S},{S},{S},{S}->..."

REASONS = {
    "it searches with a decoder of its own": "BeamSearch GreedySearch Sampling WhisperBeamSearch",
    "every step needs all of the step before": (
        "AttnLSTM CausalConvWithState DynamicQuantizeLSTM GatedDeltaNet LinearAttention "
        "VarlenCausalConvWithState"
    ),
    "its sequences lie one after another, without their padding": (
        "PackedAttention PackedMultiHeadAttention PagedAttention RemovePadding RestorePadding"
    ),
    "its heads share a pattern of blocks": (
        "DynamicSparseAttention LongformerAttention SparseAttention SparsePagedAttention"
    ),
    "its cache is shared by the steps of a search": (
        "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention"
    ),
    "its channels come last": "NhwcConv NhwcFusedConv NhwcMaxPool QLinearConv",
    "its weight is packed in a form of its own": (
        "GemmFloat8 MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 "
        "MatMulFpQ4"
    ),
    "it normalises, multiplies and activates in one node": "MatMulNBitsMlp MatMulNBitsQkv",
}
"""Why operators are computed whole."""

CONTRIB: dict[str, Rule] = {
    **each("Gelu QuickGelu", Rule(einsum("...->..."))),
    **each("BiasGelu FastGelu", Rule(einsum("...,...->..."))),
    # matrix products and convolutions
    **each("FusedMatMul TransposeMatMul", Rule(fused_matmul)),
    "FusedGemm": Rule(fused_gemm, convolution.bias_once),
    "FusedConv": Rule(fused_conv, convolution.local_conv),
    # normalisations
    **each(
        "LayerNormalization SimplifiedLayerNormalization", Rule(arithmetic.layer_normalization)
    ),
    **each(
        "SkipLayerNormalization SkipSimplifiedLayerNormalization",
        Rule(arithmetic.layer_normalization),
    ),
    # attention
    **each(
        "Attention QAttention", Rule(contrib_attention.attention, contrib_attention.local_heads)
    ),
    "MultiHeadAttention": Rule(
        contrib_attention.multi_head_attention, contrib_attention.local_heads
    ),
    "GroupQueryAttention": Rule(
        contrib_attention.grouped_query_attention, contrib_attention.local_groups
    ),
    "RotaryEmbedding": Rule(contrib_attention.rotary_embedding, contrib_attention.local_heads),
    # experts
    **each("MoE QMoE", Rule(contrib_experts.experts, contrib_experts.local_experts)),
    # integers
    "MatMulNBits": Rule(contrib_quantised.matmul_nbits, contrib_quantised.local_nbits),
    "GatherBlockQuantized": Rule(
        contrib_quantised.gather_block_quantized, contrib_quantised.local_block_rows
    ),
    "MatMulInteger16": Rule(arithmetic.matmul),
    "MatMulIntegerToFloat": Rule(
        contrib_quantised.matmul_integer_to_float, contrib_quantised.local_integer_to_float
    ),
    "DynamicQuantizeMatMul": Rule(contrib_quantised.dynamic_quantize_matmul),
    "QGemm": Rule(contrib_quantised.quantised_gemm, contrib_quantised.local_gemm),
    **each("QuantizeLinear DequantizeLinear", Rule(contrib_quantised.quantise)),
    **each("QLinearAdd QLinearMul", Rule(einsum(BINARY))),
    **each("QLinearSigmoid QLinearLeakyRelu", Rule(einsum(f"...,{S},{S},{S},{S}->..."))),
    "QLinearWhere": Rule(einsum(f"...,...,{S},{S},...,{S},{S},{S},{S}->...")),
    "QLinearSoftmax": Rule(contrib_quantised.softmax),
    "QLinearConcat": Rule(contrib_quantised.concat),
    **each("QLinearGlobalAveragePool QLinearAveragePool", Rule(contrib_quantised.pool)),
    # whole
    **{name: whole(reason) for reason, names in REASONS.items() for name in names.split()},
}
"""Rules of com.microsoft by operator."""
