"""Small graphs with onnxruntime's own operators, as builders and optimisers write them.

Heads and widths that do not divide, weights and biases of order 1, so that a wrong branch shows.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from graphs import Case, normal
from onnx import numpy_helper, parser

HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n g '
RNG = np.random.default_rng(11)


def build(text: str, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """Parse a graph whose operators of com.microsoft have a dot before their name.

    A weight given as a tuple of sizes is random, anything else a constant.
    """
    text = text.replace("= .", "= com.microsoft.")
    model = parser.parse_model(HEADER.format(opset=opset) + text)
    for name, value in weights.items():
        array = matrix(*value) if isinstance(value, tuple) else np.array(value)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def matrix(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random numbers; those of a matrix keep the scale of what they are multiplied with."""
    scale = 1.6 / np.sqrt(shape[-2]) if len(shape) > 1 else 1.0
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 256, dtype: str = "u1") -> Any:
    return RNG.integers(low, high, shape).astype(dtype)


def scales(*shape: int) -> Any:
    return RNG.uniform(0.01, 0.03, shape).astype(np.float32)


def nbits(name: str, n: int, k: int, block: int, bits: int = 4, zeros: bool = True) -> Any:
    """The weight of a MatMulNBits, its scales and its packed zero points."""
    blocks = -(-k // block)
    found = {
        f"{name}_q": integers(n, blocks, block * bits // 8),
        f"{name}_s": scales(n, blocks) * np.float32(1.5 if bits == 4 else 0.1),
    }
    if zeros:
        found[f"{name}_z"] = integers(n, -(-blocks * bits // 8))
    return found


SMOOTH = Case(
    build(
        """(float[b,16] x) => (float[b,9] y) {
          h = .FusedMatMul <alpha=0.5, transB=1> (x, w1)
          h1 = .BiasGelu(h, b1)
          h2 = .QuickGelu <alpha=1.3> (h1)
          h3 = .TransposeMatMul <transA=0> (h2, w2)
          h4 = .FastGelu(h3, b2)
          h5 = .Gelu(h4)
          h6 = .FusedGemm <activation="Relu"> (h5, w3, b3)
          y = .FusedGemm <activation="LeakyRelu", activation_alpha=0.2> (h6, w4, b4)
        }""",
        w1=(30, 16), b1=(30,), w2=(30, 14), b2=(14,), w3=(14, 10), b3=(10,), w4=(10, 9), b4=(9,),
    ),
    {"x": normal(5, 16)},
)  # fmt: skip

FUSED_CONVOLUTION = Case(
    build(
        """(float[b,3,8,8] x) => (float[b,7,6,6] y) {
          c1 = .FusedConv <activation="Relu", pads=[1,1,1,1]> (x, w1, b1)
          c2 = .FusedConv <activation="Relu", pads=[1,1,1,1]> (c1, w2, b2, c1)
          y = .FusedConv (c2, w3, b3)
        }""",
        w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w3=(7, 8, 3, 3), b3=(7,),
    ),
    {"x": normal(2, 3, 8, 8)},
)  # fmt: skip

NORMS = Case(
    build(
        """(float[b,s,12] x, float[b,s,12] u) =>
           (float[b,s,12] y, float[b,s,12] t, float[b,s,12] z) {
          h1 = MatMul(x, w1)
          r = Relu(h1)
          h2 = MatMul(r, w2)
          n1, , , s1 = .SkipLayerNormalization <epsilon=0.001> (h2, x, g1, e1, i1)
          n2, , , t = .SkipSimplifiedLayerNormalization <epsilon=0.001> (n1, s1, g2)
          y = SimplifiedLayerNormalization <axis=-1, epsilon=0.001> (n2, g3)
          z = .SkipLayerNormalization (u, n1, g4)
        }""",
        w1=(12, 15), w2=(15, 12), g1=(12,), e1=(12,), i1=(12,), g2=(12,), g3=(12,), g4=(12,),
    ),
    {"x": normal(2, 5, 12), "u": normal(2, 5, 12) + 1},
)  # fmt: skip

EMBEDDING = Case(
    build(
        """(int32[b,s] ids, int32[b,s] kinds, int32[b,s] mask) =>
           (float[b,s,7] y, int32[b] count, float[b,s,16] sum) {
          h, count, sum = .EmbedLayerNormalization <epsilon=0.001>
            (ids, kinds, words, places, types, gamma, beta, mask)
          y = MatMul(h, w)
        }""",
        words=(30, 16), places=(12, 16), types=(2, 16), gamma=(16,), beta=(16,), w=(16, 7),
    ),
    {
        "ids": integers(2, 5, high=30, dtype="i4"),
        "kinds": integers(2, 5, high=2, dtype="i4"),
        "mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int32),
    },
)  # fmt: skip

BARE_EMBEDDING = Case(
    build(
        """(int32[b,s] ids) => (float[b,s,7] y, int32[b] count) {
          h, count = .EmbedLayerNormalization (ids, , words, places, , gamma, beta)
          y = MatMul(h, w)
        }""",
        opset=12,
        words=(30, 16), places=(12, 16), gamma=(16,), beta=(16,), w=(16, 7),
    ),
    {"ids": integers(2, 5, high=30, dtype="i4")},
)  # fmt: skip
"""Neither types nor a mask, in an older opset."""

PLACED_EMBEDDING = Case(
    build(
        """(int32[b,s] ids, int32[b,s] places) => (float[b,s,7] y) {
          h, unread = .EmbedLayerNormalization
            (ids, , words, table, , gamma, beta, , places)
          y = MatMul(h, w)
        }""",
        words=(30, 16), table=(12, 16), gamma=(16,), beta=(16,), w=(16, 7),
    ),
    {
        "ids": integers(2, 5, high=30, dtype="i4"),
        "places": integers(2, 5, high=12, dtype="i4"),
    },
)  # fmt: skip

SELF_ATTENTION = Case(
    build(
        """(float[b,s,20] x, int32[b,s] mask) => (float[b,s,9] y, float[2,b,5,s,8] kv) {
          h, kv = .Attention <num_heads=5, unidirectional=1> (x, w, bias, mask)
          y = MatMul(h, wo)
        }""",
        w=(20, 120), bias=(120,), wo=(40, 9),
    ),
    {"x": normal(2, 6, 20), "mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32)},
)  # fmt: skip

NARROW_VALUES = Case(
    build(
        """(float[b,s,20] x, float[1,5,s,s] bias) => (float[b,s,9] y) {
          h = .Attention <num_heads=5, qkv_hidden_sizes=[40,40,20]> (x, w, b, , , bias)
          y = MatMul(h, wo)
        }""",
        w=(20, 100), b=(100,), wo=(20, 9),
    ),
    {"x": normal(2, 6, 20), "bias": normal(1, 5, 6, 6)},
)  # fmt: skip
"""Values half as wide as keys, and a bias that differs by head."""

PAST_ATTENTION = Case(
    build(
        """(float[b,s,20] x, float[2,b,5,p,8] past) => (float[b,s,9] y, float[2,b,5,t,8] kv) {
          h, kv = .Attention <num_heads=5, unidirectional=1> (x, w, bias, , past)
          y = MatMul(h, wo)
        }""",
        w=(20, 120), bias=(120,), wo=(40, 9),
    ),
    {"x": normal(2, 3, 20), "past": normal(2, 2, 5, 4, 8)},
)  # fmt: skip

MULTI_HEAD = Case(
    build(
        """(float[b,s,20] x, int32[b,s] mask, float[1,5,s,s] bias) => (float[b,s,9] y) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          h = .MultiHeadAttention <num_heads=5> (q, k, v, b, mask, bias)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wk=(20, 40), wv=(20, 40), b=(120,), wo=(40, 9),
    ),
    {
        "x": normal(2, 6, 20),
        "mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32),
        "bias": normal(1, 5, 6, 6),
    },
)  # fmt: skip

LENGTHS = Case(
    build(
        """(float[b,s,20] x, int32[b] lengths) => (float[b,s,9] y) {
          h = .Attention <num_heads=5> (x, w, bias, lengths)
          v = .MultiHeadAttention <num_heads=5> (h, h, h, , lengths)
          y = MatMul(v, wo)
        }""",
        w=(20, 120), bias=(120,), wo=(40, 9),
    ),
    {"x": normal(2, 6, 20), "lengths": np.array([6, 4], np.int32)},
)  # fmt: skip

MULTI_HEAD_PAST = Case(
    build(
        """(float[b,s,20] x, float[b,5,p,8] pk, float[b,5,p,8] pv) =>
           (float[b,s,9] y, float[b,5,t,8] kk, float[b,5,t,8] kv) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          h, kk, kv = .MultiHeadAttention <num_heads=5, unidirectional=1> (q, k, v, , , , pk, pv)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wk=(20, 40), wv=(20, 40), wo=(40, 9),
    ),
    {"x": normal(2, 3, 20), "pk": normal(2, 5, 4, 8), "pv": normal(2, 5, 4, 8)},
)  # fmt: skip

CROSS_ATTENTION = Case(
    build(
        """(float[b,s,20] x, float[b,5,t,8] k, float[b,5,t,8] v) => (float[b,s,9] y) {
          q = MatMul(x, wq)
          h = .MultiHeadAttention <num_heads=5> (q, k, v, bq)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wo=(40, 9), bq=(120,),
    ),
    {"x": normal(2, 3, 20), "k": normal(2, 5, 7, 8), "v": normal(2, 5, 7, 8) + 1},
)  # fmt: skip
"""Keys and values that an encoder left, already by head."""


def decoder(
    heads: int, groups: int, packed: bool, options: str = "", length: int = 1, past: int = 5
) -> Case:
    """Grouped queries with caches, lengths, and rotations, as onnxruntime-genai writes them."""
    width, q, k = 16, heads * 16, groups * 16
    batch = 1 if past and length > 1 else 2  # a kernel of onnxruntime asks for it
    mask = np.ones((batch, length + past), np.int64)
    mask[1:, -2:] = 0
    inner = (
        "qkv0 = MatMul(x, w) \n qkv = Add(qkv0, bias)"
        if packed
        else "q = MatMul(x, wq) \n k = MatMul(x, wk) \n v = MatMul(x, wv)"
    )
    weights = (
        {"w": (20, q + 2 * k), "bias": (q + 2 * k,)}
        if packed
        else {"wq": (20, q), "wk": (20, k), "wv": (20, k)}
    )
    model = build(
        f"""(float[b,s,20] x, float[b,{groups},p,{width}] pk, float[b,{groups},p,{width}] pv,
            int64[b,t] mask) =>
           (float[b,s,9] y, float[b,{groups},t,{width}] kk, float[b,{groups},t,{width}] kv) {{
          {inner}
          one = Constant <value_ints=[1]> ()
          zero = Constant <value_int=1> ()
          n = ReduceSum <keepdims=0> (mask, one)
          m = Sub(n, one)
          seqlens = Cast <to=6> (m)
          size = Shape(mask)
          total64 = Gather(size, zero)
          total = Cast <to=6> (total64)
          h, kk, kv = .GroupQueryAttention
            <num_heads={heads}, kv_num_heads={groups}, do_rotary=1 {options}>
            ({"qkv, , " if packed else "q, k, v"}, pk, pv, seqlens, total, cos, sin)
          y = MatMul(h, wo)
        }}""",
        **weights,
        wo=(q, 9),
        cos=np.cos(np.outer(np.arange(32), 0.3 ** np.arange(width // 2))).astype(np.float32),
        sin=np.sin(np.outer(np.arange(32), 0.3 ** np.arange(width // 2))).astype(np.float32),
    )
    return Case(
        model,
        {
            "x": normal(batch, length, 20),
            "pk": normal(batch, groups, past, width),
            "pv": normal(batch, groups, past, width) + 1,
            "mask": mask,
        },
    )


BIASED_GROUPS = Case(
    build(
        """(float[b,s,20] x, int32[b] m, float[1,6,s,s] bias) =>
           (float[b,s,9] y, float[b,3,s,16] kk, float[b,3,s,16] kv) {
          q = MatMul(x, wq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          total = Constant <value = int32[1] {5}> ()
          h, kk, kv = .GroupQueryAttention <num_heads=6, kv_num_heads=3, scale=0.3>
            (q, k, v, , , m, total, , , , bias, sink)
          y = MatMul(h, wo)
        }""",
        wq=(20, 96), wk=(20, 48), wv=(20, 48), wo=(96, 9), sink=(6,),
    ),
    {"x": normal(2, 5, 20), "m": np.array([4, 4], np.int32), "bias": normal(1, 6, 5, 5)},
)  # fmt: skip
"""A bias and a sink that differ by head."""

ROTATED = Case(
    build(
        """(float[b,s,20] x, int64[b,s] ids) => (float[b,s,9] y) {
          q = MatMul(x, wq)
          r = .RotaryEmbedding (q, ids, cos, sin)
          u = .RotaryEmbedding <num_heads=5, rotary_embedding_dim=4, interleaved=1>
            (r, ids, cos4, sin4)
          shape = Constant <value_ints=[0,0,5,8]> ()
          flat = Constant <value_ints=[0,0,40]> ()
          q4 = Reshape(u, shape)
          q5 = Transpose <perm=[0,2,1,3]> (q4)
          r5 = .RotaryEmbedding (q5, ids, cos, sin)
          r4 = Transpose <perm=[0,2,1,3]> (r5)
          h = Reshape(r4, flat)
          y = MatMul(h, wo)
        }""",
        wq=(20, 40), wo=(40, 9),
        cos=np.cos(normal(12, 4)), sin=np.sin(normal(12, 4)),
        cos4=np.cos(normal(12, 2)), sin4=np.sin(normal(12, 2)),
    ),
    {"x": normal(2, 3, 20), "ids": integers(2, 3, high=12, dtype="i8")},
)  # fmt: skip


def column_row(block: int, bits: int, zeros: bool = True, count: int = 8) -> Case:
    """A product by integers in blocks, and one back, with so many blocks in the middle."""
    width = count * block
    first, second = (
        nbits("a", width, 32, 16, bits, zeros),
        nbits("b", 9, width, block, bits, zeros),
    )
    a, b = (f"{name}_q, {name}_s, {f'{name}_z' if zeros else ''}" for name in "ab")
    model = build(
        f"""(float[b,32] x) => (float[b,9] y) {{
          h = .MatMulNBits <K=32, N={width}, bits={bits}, block_size=16> (x, {a}, , abias)
          r = .QuickGelu(h)
          y = .MatMulNBits <K={width}, N=9, bits={bits}, block_size={block}> (r, {b}, , bbias)
        }}""",
        **first, **second, abias=(width,), bbias=(9,),
    )  # fmt: skip
    return Case(model, {"x": normal(3, 32)})


def flattened(case: Case) -> Case:
    """The same graph with scales and zero points in one dim, as older files have them."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for tensor in model.graph.initializer:
        if tensor.name[-2:] in ("_s", "_z"):
            array = numpy_helper.to_array(tensor).reshape(-1)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return Case(model, case.feeds)


def expert_mixture(fusion: int, activation: str) -> Case:
    inner, hidden, number = 7, 12, 5
    wide = inner * (2 if fusion else 1)
    model = build(
        f"""(float[n,{hidden}] x) => (float[n,{hidden}] y) {{
          p = MatMul(x, router)
          y = .MoE <k=2, activation_type="{activation}", swiglu_fusion={fusion},
                    normalize_routing_weights=1> (x, p, w1, b1, w2, b2)
        }}""",
        router=(hidden, number),
        w1=(number, wide, hidden),
        b1=(number, wide),
        w2=(number, hidden, inner),
        b2=(number, hidden),
    )
    return Case(model, {"x": normal(6, hidden)})


def table(zeros: bool, bits: int = 4, hidden: int = 96) -> Case:
    """A table of words in blocks, and the same one as the last matrix, as genai ties them."""
    blocks = hidden // 32
    extra = {"z": integers(30, -(-blocks * bits // 8))} if zeros else {}
    model = build(
        f"""(int64[b,s] ids) => (float[b,s,30] y, float[b,s,{hidden}] e) {{
          flat = Constant <value_ints=[30,-1]> ()
          rows = Reshape(q, flat)
          e = .GatherBlockQuantized <bits={bits}, block_size=32, gather_axis=0, quantize_axis=1>
            (rows, ids, s1 {", z" if zeros else ""})
          n = SimplifiedLayerNormalization <axis=-1, epsilon=0.001> (e, g)
          y = .MatMulNBits <K={hidden}, N=30, bits={bits}, block_size=32>
            (n, q, s1 {", z" if zeros else ""})
        }}""",
        q=integers(30, blocks, 32 * bits // 8),
        s1=scales(30, blocks),
        g=(hidden,),
        **extra,
    )
    return Case(model, {"ids": integers(2, 4, low=-30, high=30, dtype="i8")})


FOUR_BITS = Case(
    build(
        """(int64[b,s] ids) => (float[b,s,9] y) {
          e = .GatherBlockQuantized <block_size=32, gather_axis=0, quantize_axis=1>
            (rows, ids, s1, z)
          y = MatMul(e, w)
        }""",
        rows=integers(30, 96, low=-8, high=8, dtype="i1").astype(ml_dtypes.int4),
        s1=scales(30, 3) * np.float32(8), w=(96, 9),
        z=integers(30, 3, low=-8, high=8, dtype="i1").astype(ml_dtypes.int4),
    ),
    {"ids": integers(2, 4, low=-30, high=30, dtype="i8")},
)  # fmt: skip
"""A table whose elements onnx knows to be of four bits."""

SMALL_INTEGERS = Case(
    build(
        """(float[b,16] x) => (float[b,9] y, float[b,9] u) {
          q1 = .QuantizeLinear(x, xs, xz)
          h = .MatMulIntegerToFloat(q1, w1, xs, s1, xz, z1, b1)
          r = Relu(h)
          q2 = .QuantizeLinear(r, xs, xz)
          y = .MatMulIntegerToFloat(q2, w2, xs, s2, xz, , b2)
          d = .DynamicQuantizeMatMul(r, w2, s2, , b2)
          z = .DequantizeLinear(w3, s3, z3)
          u = Add(d, z)
        }""",
        xs=np.float32(0.02), xz=np.uint8(128),
        w1=integers(16, 21, low=-128, high=128, dtype="i1"), s1=scales(21),
        z1=integers(21, low=-9, high=9, dtype="i1"), b1=(21,),
        w2=integers(21, 9, low=-128, high=128, dtype="i1"), s2=np.float32(0.01), b2=(9,),
        w3=integers(1, 9), s3=scales(9), z3=integers(9),
    ),
    {"x": normal(4, 16)},
)  # fmt: skip

QUANTISED_NETWORK = Case(
    build(
        """(float[b,6,8,8] x) => (float[b,7] y, float[b,9] f, float[b,18,8,8] v) {
          q = .QuantizeLinear(x, s, z)
          a = .QLinearAdd(q, s, z, other, s, z, s2, z)
          m = .QLinearMul(a, s2, z, column, s, z, s2, z)
          g = .QLinearSigmoid(m, s2, z, s3, z0)
          l = .QLinearLeakyRelu <alpha=0.2> (m, s2, z, s2, z)
          c = .QLinearConcat <axis=1> (s2, z, g, s3, z0, l, s2, z, q, s, z)
          w = .QLinearWhere(cond, c, s2, z, shift, s, z, s2, z)
          v = .DequantizeLinear(w, s2, z)
          p = .QLinearAveragePool <kernel_shape=[2,2], strides=[2,2]> (w, s2, z, s2, z)
          gap = .QLinearGlobalAveragePool(p, s2, z, s2, z)
          shape = Constant <value_ints=[-1,18]> ()
          flat = Reshape(gap, shape)
          soft = .QLinearSoftmax <axis=-1, opset=13> (flat, s2, z, s4, z0)
          f = .QGemm(soft, s4, z0, wg, sg, zg, bg)
          r = .QGemm <transB=1> (flat, s2, z, wt, sg, zg, bg, s2, z)
          rf = .DequantizeLinear(r, s2, z)
          y = MatMul(rf, wo)
        }""",
        s=np.float32(0.02), z=np.uint8(120), s2=np.float32(0.03), s3=np.float32(1 / 256),
        z0=np.uint8(0), s4=np.float32(1 / 256),
        other=integers(6, 8, 8), column=integers(6, 1, 1),
        cond=integers(18, 1, 1, high=2).astype(bool), shift=integers(1, 1, 1),
        wt=integers(9, 18, low=-128, high=128, dtype="i1"), wo=(9, 7),
        wg=integers(18, 9, low=-128, high=128, dtype="i1"), sg=scales(9),
        zg=integers(9, low=-9, high=9, dtype="i1"),
        bg=integers(9, low=-999, high=999, dtype="i4"),
    ),
    {"x": normal(1, 6, 8, 8)},
)  # fmt: skip

SIXTEEN_BITS = Case(
    build(
        """(int16[b,12] x) => (float[b,9] y) {
          i = .MatMulInteger16(x, w1)
          f = Cast <to=1> (i)
          y = MatMul(f, w2)
        }""",
        w1=integers(12, 21, low=-20, high=20, dtype="i2"), w2=(21, 9),
    ),
    {"x": integers(4, 12, low=-2, high=3, dtype="i2")},
)  # fmt: skip

QUANTISED_ATTENTION = Case(
    build(
        """(float[b,s,20] x, int32[b,s] mask) => (float[b,s,9] y) {
          q = .QuantizeLinear(x, xs, xz)
          h = .QAttention <num_heads=5> (q, w, bias, xs, s, mask, xz, z)
          y = MatMul(h, wo)
        }""",
        xs=np.float32(0.02), xz=np.uint8(120),
        w=integers(20, 120, low=-128, high=128, dtype="i1"), bias=(120,), s=np.float32(0.01),
        z=np.int8(3), wo=(40, 9),
    ),
    {"x": normal(2, 6, 20), "mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32)},
)  # fmt: skip


def integer_experts(bits: int, block: int, zeros: bool, fusion: int, count: int = 6) -> Case:
    """Experts of integers, so many blocks wide inside."""
    hidden, number, inner = 64, 5, count * (block or 16)
    wide, pack, fine = inner * (2 if fusion else 1), 8 // bits, np.float32(2.0 ** (4 - bits))
    row = ((hidden // block,), (inner // block,)) if block else ((), ())
    weights: dict[str, Any] = {
        "w1": integers(number, wide, hidden // pack),
        "s1": scales(number, wide, *row[0]) * fine,
        "b1": (number, wide),
        "w2": integers(number, hidden, inner // pack),
        "s2": scales(number, hidden, *row[1]) * fine,
        "b2": (number, hidden),
    }
    if zeros:
        weights["z1"] = integers(number, wide, -(-hidden // block // pack))
        weights["z2"] = integers(number, hidden, -(-count // pack))
    model = build(
        f"""(float[n,{hidden}] x) => (float[n,{hidden}] y) {{
          p = MatMul(x, router)
          y = .QMoE <k=2, expert_weight_bits={bits}, {f"block_size={block}," if block else ""}
                     activation_type="{"swiglu" if fusion else "silu"}", swiglu_fusion={fusion}>
            (x, p, w1, s1, b1, w2, s2, b2 {", , , , z1, z2" if zeros else ""})
        }}""",
        router=(hidden, number),
        **weights,
    )
    return Case(model, {"x": normal(6, hidden)})


def block(layer: int, groups: int, heads: int, hidden: int, inner: int) -> tuple[str, Any]:
    """A layer of a decoder in int4: `h` and `skip` come in, and go out with the next number."""
    width = 32
    q, n = heads * width, (heads + 2 * groups) * width
    here, after = f"{layer}", f"{layer + 1}"
    sizes = {"qkv": (n, hidden), "o": (hidden, q), "gate": (inner, hidden), "up": (inner, hidden)}
    sizes["down"] = (hidden, inner)
    weights: dict[str, Any] = {f"g{layer}a": (hidden,), f"g{layer}b": (hidden,)}
    calls = {}
    for name, (rows, columns) in sizes.items():
        weights |= nbits(f"{name}{here}", rows, columns, 32)
        options = f"<K={columns}, N={rows}, bits=4, block_size=32>"
        inputs = ", ".join(f"{name}{here}_{part}" for part in "qsz")
        calls[name] = f"{name}{here} = .MatMulNBits {options} (IN, {inputs})"

    def product(name: str, given: str) -> str:
        return calls[name].replace("IN", given)

    text = f"""
      {product("qkv", f"n{here}")}
      att{here}, kk{here}, kv{here} = .GroupQueryAttention
        <num_heads={heads}, kv_num_heads={groups}, do_rotary=1>
        (qkv{here}, , , pk{here}, pv{here}, seqlens, total, cos, sin)
      {product("o", f"att{here}")}
      m{here}, , , t{here} = .SkipSimplifiedLayerNormalization <epsilon=0.001>
        (skip{here}, o{here}, g{here}a)
      {product("gate", f"m{here}")}
      {product("up", f"m{here}")}
      sig{here} = Sigmoid(gate{here})
      silu{here} = Mul(gate{here}, sig{here})
      both{here} = Mul(silu{here}, up{here})
      {product("down", f"both{here}")}
      n{after}, , , skip{after} = .SkipSimplifiedLayerNormalization <epsilon=0.001>
        (t{here}, down{here}, g{here}b)
    """
    return text, weights


def language_model(layers: int, groups: int, heads: int, hidden: int, inner: int) -> Case:
    """An int4 decoder as onnxruntime-genai's builder writes it, with tied tables and caches."""
    text, weights, width = "", dict[str, Any](), 32
    for layer in range(layers):
        lines, more = block(layer, groups, heads, hidden, inner)
        text, weights = text + lines, weights | more
    numbers = range(layers)
    cache = f"float[b,{groups},p,{width}]"
    past = "".join(f", {cache} pk{k}, {cache} pv{k}" for k in numbers)
    made = "".join(f", {cache} kk{k}, {cache} kv{k}".replace("p,", "t,") for k in numbers)
    angles = np.outer(np.arange(32), 0.3 ** np.arange(width // 2))
    model = build(
        f"""(int64[b,s] ids, int64[b,t] mask {past}) => (float[b,s,300] logits {made}) {{
          one = Constant <value_ints=[1]> ()
          place = Constant <value_int=1> ()
          n = ReduceSum <keepdims=0> (mask, one)
          last = Sub(n, one)
          seqlens = Cast <to=6> (last)
          size = Shape(mask)
          total64 = Gather(size, place)
          total = Cast <to=6> (total64)
          flat = Constant <value_ints=[300,-1]> ()
          rows = Reshape(words_q, flat)
          skip0 = .GatherBlockQuantized <bits=4, block_size=32, gather_axis=0, quantize_axis=1>
            (rows, ids, words_s, words_z)
          n0 = SimplifiedLayerNormalization <axis=-1, epsilon=0.001> (skip0, g)
          {text}
          logits = .MatMulNBits <K={hidden}, N=300, bits=4, block_size=32>
            (n{layers}, words_q, words_s, words_z)
        }}""",
        **weights,
        **nbits("words", 300, hidden, 32),
        g=(hidden,),
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
    )
    feeds = {"ids": integers(1, 3, high=300, dtype="i8"), "mask": np.ones((1, 7), np.int64)}
    feeds |= {f"{name}{k}": normal(1, groups, 4, width) for k in numbers for name in ("pk", "pv")}
    return Case(model, feeds)


LANGUAGE_MODEL = language_model(2, groups=4, heads=8, hidden=128, inner=576)

CASES = {
    "smooth": SMOOTH,
    "fused_convolution": FUSED_CONVOLUTION,
    "norms": NORMS,
    "embedding": EMBEDDING,
    "bare_embedding": BARE_EMBEDDING,
    "placed_embedding": PLACED_EMBEDDING,
    "self_attention": SELF_ATTENTION,
    "narrow_values": NARROW_VALUES,
    "past_attention": PAST_ATTENTION,
    "multi_head": MULTI_HEAD,
    "lengths": LENGTHS,
    "multi_head_past": MULTI_HEAD_PAST,
    "cross_attention": CROSS_ATTENTION,
    "rotated": ROTATED,
    "groups": decoder(6, 3, packed=False),
    "packed_groups": decoder(8, 2, packed=True),
    "seven_heads": decoder(7, 7, packed=True),
    "one_group": decoder(6, 1, packed=False, options=", softcap=5.0, local_window_size=4"),
    "prompt": decoder(6, 3, packed=True, past=0, length=5),
    "table": table(zeros=False),
    "table_with_zeros": table(zeros=True, hidden=128),
    "odd_table": table(zeros=True),
    "table_of_bytes": table(zeros=True, bits=8),
    "four_bits": FOUR_BITS,
    "sixteen_bits": SIXTEEN_BITS,
    "small_integers": SMALL_INTEGERS,
    "quantised_network": QUANTISED_NETWORK,
    "quantised_attention": QUANTISED_ATTENTION,
    "integer_experts": integer_experts(4, 0, zeros=False, fusion=0),
    "integer_experts_in_blocks": integer_experts(4, 16, zeros=True, fusion=1),
    "odd_experts": integer_experts(4, 16, zeros=True, fusion=1, count=3),
    "byte_experts": integer_experts(8, 0, zeros=False, fusion=1),
    "column_row": column_row(16, 4),
    "bytes": column_row(32, 8),
    "shared_bytes": column_row(16, 4, count=7),
    "flat_scales": flattened(column_row(16, 4)),
    "flat_bytes": flattened(column_row(16, 4, count=7)),
    "seven_blocks": column_row(16, 4, zeros=False, count=7),
    "without_zeros": column_row(16, 4, zeros=False),
    "biased_groups": BIASED_GROUPS,
    "continued": decoder(6, 2, packed=True, length=3),
    "experts": expert_mixture(0, "relu"),
    "paired_experts": expert_mixture(1, "swiglu"),
}


def fixed(case: Case) -> Case:
    """The same graph with every open dim of its inputs as long as what is fed."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value in model.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, case.feeds[value.name].shape, strict=True
        ):
            dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return Case(model, case.feeds)


FIXED = {f"fixed_{name}": fixed(case) for name, case in CASES.items()}
