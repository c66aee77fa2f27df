"""One small graph for each operator of which a rule says more than that its dims pass.

Sizes differ from one another, so that an atom is known by its size; batches are fixed, so that
they may be cut too.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import graphs
import ml_dtypes
import numpy as np
import onnx
from case import integers, scales
from onnx import TensorProto, helper


class Operator(NamedTuple):
    """A graph, and the sizes of the atoms along which the operator runs on parts."""

    model: onnx.ModelProto
    feeds: dict[str, Any]
    passes: list[int]
    """at two ranks"""


def operator(text: str, passes: list[int], opset: int = 18, **weights: Any) -> Operator:
    """Build a graph; what is fed is drawn, unless a weight of the same name stands for it."""
    fed = {name[4:]: weights.pop(name) for name in list(weights) if name.startswith("fed_")}
    model = graphs.build(text, opset, **weights)
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        drawn = rng.standard_normal(shape)
        if kind not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            drawn = rng.integers(0, 100, shape)
        fed.setdefault(value.name, drawn.astype(helper.tensor_dtype_to_np_dtype(kind)))
    return Operator(model, fed, passes)


OPERATORS: dict[str, Operator] = {
    # heads in groups: 3 of keys, 2 queries each; 5 queries, 4 sentences
    "Attention": operator(
        """(float[4,5,24] q, float[4,7,12] k, float[4,7,12] v) => (float[4,5,24] y) {
          y = Attention <q_num_heads=6, kv_num_heads=3> (q, k, v) }""",
        [2, 3, 4, 5], 23,
    ),
    "Attention of four dims": operator(
        """(float[4,6,5,8] q, float[4,3,7,8] k, float[4,3,7,8] v, float[4,6,5,17] m,
            float[4,3,10,8] pk, float[4,3,10,8] pv) =>
            (float[4,6,5,8] y, float[4,3,17,8] nk, float[4,3,17,8] nv) {
          y, nk, nv = Attention <is_causal=1> (q, k, v, m, pk, pv) }""",
        [2, 3, 4], 23,
    ),
    "Attention of an open length": operator(
        """(float[b,s,24] x) => (float[b,s,24] y) {
          q = MatMul (x, wq) \n k = MatMul (x, wk) \n v = MatMul (x, wv)
          a = Attention <q_num_heads=6, kv_num_heads=3, is_causal=1> (q, k, v)
          y = MatMul (a, wo) }""",
        [2, 3],
        23,
        wq=(24, 24),
        wk=(24, 12),
        wv=(24, 12),
        wo=(24, 24),
        fed_x=graphs.normal(2, 5, 24),
    ),
    "RotaryEmbedding": operator(
        """(float[4,5,24] x, int64[4,5] at) => (float[4,5,24] y) {
          y = RotaryEmbedding <num_heads=3> (x, cos, sin, at) }""",
        [3, 4, 5], 23, cos=(100, 4), sin=(100, 4),
    ),
    "RotaryEmbedding of four dims": operator(
        """(float[4,3,5,8] x, float[4,5,4] cos, float[4,5,4] sin) => (float[4,3,5,8] y) {
          y = RotaryEmbedding <interleaved=1> (x, cos, sin) }""",
        [3, 4, 5], 23,
    ),
    "LSTM": operator(
        """(float[5,4,3] x, int32[4] n, float[2,4,7] h, float[2,4,7] c) =>
            (float[5,2,4,7] y, float[2,4,7] yh, float[2,4,7] yc) {
          y, yh, yc = LSTM <hidden_size=7, direction="bidirectional"> (x, w, r, b, n, h, c) }""",
        [4, 7], w=(2, 28, 3), r=(2, 28, 7), b=(2, 56), fed_n=np.array([5, 3, 2, 4], np.int32),
    ),
    "GRU": operator(
        """(float[5,4,3] x) => (float[1,4,7] yh) { , yh = GRU <hidden_size=7> (x, w, r) }""",
        [4, 7], w=(1, 21, 3), r=(1, 21, 7),
    ),
    "RNN": operator(
        """(float[5,4,3] x) => (float[5,1,4,7] y) { y = RNN <hidden_size=7> (x, w, r) }""",
        [4, 7], w=(1, 7, 3), r=(1, 7, 7),
    ),
    "RNN whose state is added to what comes in": operator(
        """(float[5,4,3] x, float[1,4,7] h) => (float[1,4,7] z) {
          , yh = RNN <hidden_size=7> (x, w, r, , , h) \n z = Add (yh, h) }""",
        [4, 7],
        w=(1, 7, 3),
        r=(1, 7, 7),
    ),
    "ReverseSequence": operator(
        """(float[5,4,3] x, int64[4] n) => (float[5,4,3] y) { y = ReverseSequence (x, n) }""",
        [3, 4], fed_n=np.array([5, 3, 1, 4]),
    ),
    "PRelu whose slopes have more dims": operator(
        "(float[5] x) => (float[1,5] z) { y = PRelu (x, s) \n z = Tanh (y) }", [5], s=(1, 5),
    ),
    # quantized
    "QuantizeLinear": operator(
        """(float[4,6,5] x) => (uint8[4,6,5] y) { y = QuantizeLinear <axis=1> (x, s, z) }""",
        [4, 5, 6], s=scales(6), z=integers(6, high=200),
    ),
    "QuantizeLinear of a whole": operator(
        "(float[4,6] x) => (uint8[4,6] y) { y = QuantizeLinear (x, s) }",
        [4, 6], 13, s=np.float32(0.02),
    ),
    "DequantizeLinear in blocks": operator(
        """(float[4,24] x) => (float[4,7] y) {
          d = DequantizeLinear <axis=0, block_size=8> (w, s, z) \n y = MatMul (x, d) }""",
        [3, 7], 21, w=integers(24, 7, high=200), s=scales(3, 7), z=integers(3, 7, high=200),
    ),
    "DequantizeLinear of four bits": operator(
        """(float[4,24] x) => (float[4,7] y) {
          d = DequantizeLinear <axis=0, block_size=8> (w, s) \n y = MatMul (x, d) }""",
        [3, 7],
        21,
        w=integers(24, 7, low=-7, high=8, dtype=ml_dtypes.int4),
        s=scales(3, 7),
    ),
    "QLinearMatMul": operator(
        """(uint8[4,5,8] a) => (uint8[4,5,7] y) {
          y = QLinearMatMul (a, sa, za, b, sb, zb, sy, zy) }""",
        [4, 5, 7], sa=np.float32(0.02), za=np.uint8(90), b=integers(8, 7, high=200), sb=scales(7),
        zb=integers(7, high=200), sy=np.float32(0.05), zy=np.uint8(100),
    ),
    "MatMulInteger": operator(
        """(uint8[4,5,8] a) => (int32[4,5,7] y) { y = MatMulInteger (a, b, za, zb) }""",
        [4, 5, 7, 8], b=integers(8, 7, high=3), za=np.uint8(50), zb=integers(7, high=3),
    ),
    "ConvInteger": operator(
        """(uint8[4,6,5,5] x) => (int32[4,7,3,3] y) { y = ConvInteger (x, w, zx) }""",
        [4, 6, 7], w=integers(7, 6, 3, 3, high=3), zx=np.uint8(50),
    ),
    "ConvInteger in groups": operator(
        """(uint8[4,6,5,5] x) => (int32[4,15,3,3] y) { y = ConvInteger <group=3> (x, w) }""",
        [2, 3, 4, 5], w=integers(15, 2, 3, 3, high=2),
    ),
    "QLinearConv": operator(
        """(uint8[4,6,5,5] x) => (uint8[4,7,3,3] y) {
          y = QLinearConv (x, sx, zx, w, sw, zw, sy, zy, b) }""",
        [4, 7], sx=np.float32(0.02), zx=np.uint8(90), w=integers(7, 6, 3, 3, high=200),
        sw=scales(7), zw=np.full(7, 90, np.uint8), sy=np.float32(0.09), zy=np.uint8(100),
        b=np.arange(7, dtype=np.int32) * 300,
    ),
    "QLinearConv in groups": operator(
        """(uint8[4,6,5,5] x) => (uint8[4,15,3,3] y) {
          y = QLinearConv <group=3> (x, sx, zx, w, sw, zw, sy, zy) }""",
        [3, 4, 5], sx=np.float32(0.02), zx=np.uint8(90), w=integers(15, 2, 3, 3, high=200),
        sw=scales(15), zw=np.full(15, 90, np.uint8), sy=np.float32(0.09), zy=np.uint8(100),
    ),
    "DynamicQuantizeLinear": operator(
        """(float[4,8] x) => (uint8[4,7] y, float s, uint8 z) {
          h = MatMul (x, w) \n y, s, z = DynamicQuantizeLinear (h) }""",
        [4, 7, 8], w=(8, 7),
    ),
    # convolutions and normalisations
    "ConvTranspose": operator(
        """(float[4,6,5,5] x) => (float[4,7,11,11] y) {
          y = ConvTranspose <strides=[2,2]> (x, w, b) }""",
        [4, 6, 7], w=(6, 7, 3, 3), b=(7,),
    ),
    "ConvTranspose in groups": operator(
        """(float[4,6,5,5] x) => (float[4,15,7,7] y) { y = ConvTranspose <group=3> (x, w, b) }""",
        [2, 3, 4, 5], w=(6, 5, 3, 3), b=(15,),
    ),
    "DeformConv": operator(
        """(float[4,6,5,5] x, float[4,8,4,4] o) => (float[4,7,4,4] y) {
          y = DeformConv (x, w, o, b) }""",
        [4, 6, 7], 19, w=(7, 6, 2, 2), b=(7,),
    ),
    "GroupNormalization": operator(
        """(float[4,6,5] x) => (float[4,6,5] y) {
          y = GroupNormalization <num_groups=3> (x, s, b) }""",
        [3, 4], 21, s=(6,), b=(6,),
    ),
    "GroupNormalization of old": operator(
        """(float[4,6,5] x) => (float[4,6,5] y) {
          y = GroupNormalization <num_groups=3> (x, s, b) }""",
        [3, 4], 18, s=(3,), b=(3,),
    ),
    "GroupNormalization of one scale": operator(
        """(float[4,6,5] x) => (float[4,6,5] y) {
          y = GroupNormalization <num_groups=3> (x, s, b) }""",
        [3, 4], 21, s=np.float32(0.7), b=(6,),
    ),
    "LRN": operator(
        "(float[4,6,5,7] x) => (float[4,6,5,7] y) { y = LRN <size=3> (x) }", [4, 5, 7]
    ),
    "MeanVarianceNormalization": operator(
        """(float[4,6,5,7] x) => (float[4,6,5,7] y) {
          y = MeanVarianceNormalization <axes=[0,2]> (x) }""",
        [6, 7], 13,
    ),
    "MeanVarianceNormalization of three dims": operator(
        """(float[4,6,5] x) => (float[4,6,5] y) { y = MeanVarianceNormalization (x) }""",
        [6], 13,
    ),
    "SoftmaxCrossEntropyLoss": operator(
        """(float[4,7] x, int64[4] t) => (float[4] y, float[4,7] p) {
          y, p = SoftmaxCrossEntropyLoss <reduction="none"> (x, t) }""",
        [4, 7], 13, fed_t=np.array([6, 0, 3, 3]),
    ),
    # elements by their numbers
    "GatherElements": operator(
        """(float[4,5,6] x, int64[4,7,6] i) => (float[4,7,6] y) {
          y = GatherElements <axis=1> (x, i) }""",
        [4, 6, 7], fed_i=np.arange(168).reshape(4, 7, 6) % 5,
    ),
    "GatherElements for fewer rows": operator(
        """(float[4,5,6] x, int64[3,7,6] i) => (float[3,7,6] y) {
          y = GatherElements <axis=1> (x, i) }""",
        [6, 7],
        fed_i=np.arange(126).reshape(3, 7, 6) % 5,
    ),
    "GatherND": operator(
        """(float[4,5,6,7] x, int64[4,3,2] i) => (float[4,3,7] y) {
          y = GatherND <batch_dims=1> (x, i) }""",
        [3, 4, 7], fed_i=np.arange(24).reshape(4, 3, 2) % 5,
    ),
    # one place of 9, as multi-query attention takes its keys; four in a row; one in two dims
    "GatherND of one place": operator(
        """(float[9,5,6] x) => (float[1,5,6] y) {
          i = Constant <value = int64[1,1] {-2}> ()
          y = GatherND (x, i) }""",
        [5, 6, 7],
    ),
    "GatherND of places in a row": operator(
        """(float[9,5,6] x) => (float[4,5,6] y) {
          i = Constant <value = int64[4,1] {2, 3, 4, 5}> ()
          y = GatherND (x, i) }""",
        [2, 3, 4, 5, 6],
    ),
    "GatherND of a place in two dims": operator(
        """(float[9,5,6] x) => (float[6] y) {
          i = Constant <value = int64[2] {2, 3}> ()
          y = GatherND (x, i) }""",
        [2, 3, 6, 6],
    ),
    "ScatterElements": operator(
        """(float[4,5,6] x, int64[4,2,6] i, float[4,2,6] u) => (float[4,5,6] y) {
          y = ScatterElements <axis=1, reduction="add"> (x, i, u) }""",
        [4, 6], fed_i=np.arange(48).reshape(4, 2, 6) % 5,
    ),
    "Scatter": operator(
        """(float[4,5] x, int64[2,5] i, float[2,5] u) => (float[4,5] y) {
          y = Scatter (x, i, u) }""",
        [5], 9, fed_i=np.array([[0, 1, 2, 3, 0], [1, 2, 3, 0, 1]]),
    ),
    "ScatterND": operator(
        """(float[4,5,6] x, int64[3,2] i, float[3,6] u) => (float[4,5,6] y) {
          y = ScatterND (x, i, u) }""",
        [6], fed_i=np.array([[0, 1], [3, 4], [2, 2]]),
    ),
    "TensorScatter": operator(
        """(float[4,3,9,8] x, float[4,3,2,8] u, int64[4] at) => (float[4,3,9,8] y) {
          y = TensorScatter (x, u, at) }""",
        [3, 4, 8], 24, fed_at=np.array([0, 7, 3, 5]),
    ),
    "OneHot": operator(
        """(int64[4,5] x) => (float[4,7,5] y) { y = OneHot <axis=1> (x, n, v) }""",
        [4, 5], n=np.array([7]), v=np.array([-1, 2], np.float32),
    ),
    "Trilu": operator(
        "(float[4,5,6] x) => (float[4,5,6] y) { y = Trilu <upper=0> (x, k) }",
        [4], k=np.array(1),
    ),
    "Size": operator(
        """(float[4,8] x) => (float[4,7] y, int64 n) {
          y = MatMul (x, w) \n n = Size (y) }""",
        [4, 7], w=(8, 7),
    ),
    "CumProd": operator(
        "(float[4,5,6] x) => (float[4,5,6] y) { y = CumProd (x, k) }", [4, 6], 26, k=np.array(1)
    ),
    # images
    "DepthToSpace": operator(
        "(float[4,12,5,6] x) => (float[4,3,10,12] y) { y = DepthToSpace <blocksize=2> (x) }",
        [3, 4, 5, 6],
    ),
    "DepthToSpace by columns": operator(
        """(float[4,12,5,6] x) => (float[4,3,10,12] y) {
          y = DepthToSpace <blocksize=2, mode="CRD"> (x) }""",
        [3, 4, 5, 6],
    ),
    "SpaceToDepth": operator(
        "(float[4,3,10,12] x) => (float[4,12,5,6] y) { y = SpaceToDepth <blocksize=2> (x) }",
        [3, 4, 5, 6],
    ),
    "Resize": operator(
        """(float[4,6,5,7] x) => (float[4,6,10,7] y) { y = Resize (x, , s) }""",
        [4, 6, 7], s=np.array([1, 1, 2, 1], np.float32),
    ),
    "Resize to sizes": operator(
        """(float[4,6,5,7] x) => (float[4,6,9,3] y) { y = Resize (x, , , s) }""",
        [4, 6], s=np.array([4, 6, 9, 3]),
    ),
    "Resize to computed sizes": operator(
        """(float[b,6,h,w] x) => (float[b,6,p,q] y) {
          c = Conv (x, k) \n s = Shape (c) \n n = Slice (s, i0, i2) \n m = Slice (s, i2, i4)
          d = Mul (m, i2) \n t = Concat <axis=0> (n, d)
          r = Resize <mode="linear"> (c, , , t) \n y = Conv (r, l) }""",
        [8],
        k=(8, 6, 1, 1),
        l=(6, 8, 1, 1),
        i0=[0],
        i2=[2],
        i4=[4],
        fed_x=graphs.normal(2, 6, 5, 7),
    ),
    "Upsample": operator(
        """(float[4,6,5,7] x) => (float[4,6,10,7] y) { y = Upsample (x, s) }""",
        [4, 6, 7], 9, s=np.array([1, 1, 2, 1], np.float32),
    ),
    "GridSample": operator(
        """(float[4,6,5,7] x, float[4,9,3,2] g) => (float[4,6,9,3] y) { y = GridSample (x, g) }""",
        [3, 4, 6, 9],
    ),
    "RoiAlign": operator(
        """(float[4,6,15,17] x, float[5,4] r, int64[5] b) => (float[5,6,2,2] y) {
          y = RoiAlign <output_height=2, output_width=2> (x, r, b) }""",
        [5, 6], 16, fed_r=np.array([[0, 0, 9.3, 9.3], [1, 2, 7.3, 5.3], [3, 3, 8.3, 14.3],
        [2, 0, 5.3, 5.3], [4, 4, 9.3, 9.3]], np.float32), fed_b=np.array([0, 3, 1, 2, 2]),
    ),
    "MaxRoiPool": operator(
        """(float[4,6,15,17] x, float[3,5] r) => (float[3,6,2,2] y) {
          y = MaxRoiPool <pooled_shape=[2,2]> (x, r) }""",
        [3, 6], fed_r=np.array([[0, 0, 0, 9, 9], [3, 1, 2, 7, 5], [1, 3, 3, 8, 14]], "f4")
        + np.float32(0.3),
    ),
    "Col2Im": operator(
        """(float[4,12,8] x) => (float[4,3,2,9] y) { y = Col2Im (x, i, b) }""",
        [3, 4], i=np.array([2, 9]), b=np.array([2, 2]),
    ),
    "CenterCropPad": operator(
        "(float[4,6,5] x) => (float[4,6,3] y) { y = CenterCropPad <axes=[2]> (x, n) }",
        [4, 6], n=np.array([3]),
    ),
    "Det": operator("(float[4,3,3] x) => (float[4] y) { y = Det (x) }", [4]),
    "DFT": operator(
        "(float[4,5,6,1] x) => (float[4,5,6,2] y) { y = DFT <axis=1> (x) }", [4, 6], 17
    ),
    "DFT along an axis that is an input": operator(
        "(float[4,5,6,1] x) => (float[4,5,6,2] y) { y = DFT (x, , k) }", [4, 6], 20, k=np.array(1)
    ),
    "STFT": operator(
        """(float[4,64,1] x) => (float[4,7,9,2] y) { y = STFT (x, step, window) }""",
        [4], 17, step=np.array(8), window=(16,),
    ),
    "Squeeze of every dim of one": operator(
        "(float[4,1,5,1] x) => (float[4,5] y) { y = Squeeze (x) }", [4, 5]
    ),
    "Squeeze of old": operator(
        "(float[4,1,5,1] x) => (float[4,5] y) { y = Squeeze (x) }", [4, 5], 11
    ),
    "Squeeze of nothing": operator(
        "(float[4,5] x) => (float[4,5] y) { y = Squeeze (x) }", [4, 5], 11
    ),
    "Squeeze of nothing today": operator(
        "(float[4,5] x) => (float[4,5] y) { y = Squeeze (x) }", [4, 5]
    ),
    "Dropout": operator(
        """(float[4,6] x) => (float[4,6] y) { y = Dropout (x, r, t) }""",
        [4, 6], r=np.float32(0.5), t=np.array(False),
    ),
}  # fmt: skip
