"""Mixtures of experts."""

from __future__ import annotations

from typing import Any

from case import Case, build, integers, normal, scales


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


def integer_experts(bits: int, block: int, zeros: bool, fusion: int, count: int = 6) -> Case:
    """Experts of integers, so many blocks wide inside."""
    hidden, number, inner = 64, 5, count * (block or 16)
    wide, pack, fine = inner * (2 if fusion else 1), 8 // bits, 2.0 ** (4 - bits)
    row = ((hidden // block,), (inner // block,)) if block else ((), ())
    weights: dict[str, Any] = {
        "w1": integers(number, wide, hidden // pack),
        "s1": scales(number, wide, *row[0], factor=fine),
        "b1": (number, wide),
        "w2": integers(number, hidden, inner // pack),
        "s2": scales(number, hidden, *row[1], factor=fine),
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
