"""Rules of onnxruntime's own operators, in domain com.microsoft, and one in that of ai.onnx.

An operator that is absent is computed whole on every rank, as is one whose rule says why.
"""

from __future__ import annotations

from ..axes import Conflict
from ..site import Site
from . import arithmetic as a
from . import contrib_attention as h
from . import contrib_blocks as b
from . import contrib_experts as e
from . import contrib_quantised as q
from . import convolution as c
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
    a.gemm(site)
    _activate(site)


def fused_conv(site: Site) -> None:
    c.conv(site)
    if site.has(3):
        site.tie_all(site.tensor(3).axes, site.output().axes)
    _activate(site)


def _activate(site: Site) -> None:
    """Need whole what is summed over: the activation is that of the sum, not of its parts."""
    if site.attribute("activation", ""):
        site.whole(*(entry.axis for entry in site.contracted))
        site.contracted.clear()


S = q.SCALE
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
    "FusedGemm": Rule(fused_gemm, c.bias_once),
    "FusedConv": Rule(fused_conv, c.local_conv),
    # normalisations
    **each("LayerNormalization SimplifiedLayerNormalization", Rule(a.layer_normalization)),
    **each("SkipLayerNormalization SkipSimplifiedLayerNormalization", Rule(a.layer_normalization)),
    # attention
    **each("Attention QAttention", Rule(h.attention, h.local_heads)),
    "MultiHeadAttention": Rule(h.multi_head_attention, h.local_heads),
    "GroupQueryAttention": Rule(h.grouped_query_attention, h.local_groups),
    "RotaryEmbedding": Rule(h.rotary_embedding, h.local_heads),
    # experts
    **each("MoE QMoE", Rule(e.experts, e.local_experts)),
    # integers
    "MatMulNBits": Rule(b.matmul_nbits, b.local_nbits),
    "GatherBlockQuantized": Rule(b.gather_block_quantized, b.local_block_rows),
    "MatMulInteger16": Rule(a.matmul),
    "MatMulIntegerToFloat": Rule(q.matmul_integer_to_float, q.local_integer_to_float),
    "DynamicQuantizeMatMul": Rule(q.dynamic_quantize_matmul),
    "QGemm": Rule(q.quantised_gemm, q.local_gemm),
    **each("QuantizeLinear DequantizeLinear", Rule(q.quantise)),
    **each("QLinearAdd QLinearMul", Rule(einsum(BINARY))),
    **each("QLinearSigmoid QLinearLeakyRelu", Rule(einsum(f"...,{S},{S},{S},{S}->..."))),
    "QLinearWhere": Rule(einsum(f"...,...,{S},{S},...,{S},{S},{S},{S}->...")),
    "QLinearSoftmax": Rule(q.softmax),
    "QLinearConcat": Rule(q.concat),
    **each("QLinearGlobalAveragePool QLinearAveragePool", Rule(q.pool)),
    # whole
    **{name: whole(reason) for reason, names in REASONS.items() for name in names.split()},
}
"""Rules of com.microsoft by operator."""
