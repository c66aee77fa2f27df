"""Small graphs with onnxruntime's own operators, as builders and optimisers write them.

layers          what comes between products, and tables of words
attention       by head and by group
blocks          weights that are quantised in blocks
quantised       networks of integers
experts         mixtures of them
language_model  a decoder in int4

Heads and widths that do not divide, weights and biases of order 1, so that a wrong branch shows.
"""

from case import fixed

from .attention import (
    BIASED_GROUPS,
    CROSS_ATTENTION,
    LENGTHS,
    MULTI_HEAD,
    MULTI_HEAD_PAST,
    NARROW_VALUES,
    PAST_ATTENTION,
    ROTATED,
    SELF_ATTENTION,
    decoder,
)
from .blocks import FOUR_BITS, MIDDLE_ROWS, column_row, flattened, table
from .experts import expert_mixture, integer_experts
from .language_model import language_model
from .layers import BARE_EMBEDDING, EMBEDDING, FUSED_CONVOLUTION, NORMS, PLACED_EMBEDDING, SMOOTH
from .quantised import QUANTISED_ATTENTION, QUANTISED_NETWORK, SIXTEEN_BITS, SMALL_INTEGERS

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
    "middle_rows": MIDDLE_ROWS,
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

FIXED = {f"fixed_{name}": fixed(case) for name, case in CASES.items()}
