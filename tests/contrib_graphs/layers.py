"""What comes between the products of a network, and what begins it."""

from __future__ import annotations

import numpy as np
from case import Case, build, normal, numbers

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
        "ids": numbers(2, 5, high=30, dtype="i4"),
        "kinds": numbers(2, 5, high=2, dtype="i4"),
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
    {"ids": numbers(2, 5, high=30, dtype="i4")},
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
        "ids": numbers(2, 5, high=30, dtype="i4"),
        "places": numbers(2, 5, high=12, dtype="i4"),
    },
)  # fmt: skip
