"""Random numbers made of the batch: where a batch is split, they are the same for every batch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from graphs import build

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.spread.flow import Flow

BATCHES = [
    *range(1, 20), 63, 64, 65, 99, 100, 101, 127, 128, 255, 256, 257, 330, 331, 332, 399, 400,
    401, 512, 999, 1000, 1001, 2000,
]  # fmt: skip
"""About the constants, and what they make of each other."""

CONSTANTS = [-1, 0, 1, 2, 3, 4, 5, 8, 10, 64, 100, 331, 400, 512, 1000]

STEPS = [
    "v = Add(a, k)", "v = Sub(a, k)", "v = Mul(a, k)", "v = Div(a, k)", "v = Mod(a, k)",
    "v = Min(a, k)", "v = Max(a, k)", "v = Sub(a, b)", "v = Div(a, b)", "v = Max(a, b)",
    "v = Abs(a)", "c = Equal(a, k)  v = Where(c, b, k)", "c = Less(a, k)  v = Where(c, a, b)",
    "c = GreaterOrEqual(a, b)  v = Where(c, a, b)", "c = Cast <to=2> (a)  v = Cast <to=7> (c)",
    "c = Cast <to=9> (a)  v = Cast <to=7> (c)",
    "c = Slice(x, zero, a, zero)  v = Shape <end=1> (c)",
    "c = Concat <axis=0> (a, b)  v = ReduceMax(c)",
    "c = Concat <axis=0> (a, k)  v = ReduceProd(c)",
]  # fmt: skip

ENDS = {
    "as a number": "f = Cast <to=1> (a)  y = Mul(x, f)",
    "as a count": "t = Concat <axis=0> (a, eight)  y = ConstantOfShape(t)",
    "as an end": "y = Slice(x, zero, a, zero)",
}


def drawn(seed: int, end: str) -> bytes:
    """A graph that makes numbers of its batch, and takes the last one."""
    rng = np.random.default_rng(seed)
    made, nodes = ["s"], ["s = Shape <end=1> (x)"]
    weights = {"zero": np.array([0]), "eight": np.array([8])}
    for place in range(int(rng.integers(1, 6))):
        weights[f"k{place}"] = np.array([rng.choice(CONSTANTS)])
        words = {"v": f"v{place}", "c": f"c{place}", "k": f"k{place}"}
        words |= {"a": str(rng.choice(made)), "b": str(rng.choice(made))}
        nodes.append(_named(str(rng.choice(STEPS)), words))
        made.append(f"v{place}")
    nodes.append(_named(ENDS[end], {"a": made[-1]}))
    text = f"(float[b,8] x) => (float[c,8] y) {{ {' '.join(nodes)} }}"
    return build(text, **weights).SerializeToString()


def _named(step: str, words: dict[str, str]) -> str:
    for mark in "(),":
        step = step.replace(mark, f" {mark} ")
    return " ".join(words.get(word, word) for word in step.split())


def share(session: onnxruntime.InferenceSession, batch: int, end: str) -> float | None:
    """What stays what it is where the batch may be split: a factor, or rows out by rows in."""
    try:
        (y,) = session.run(None, {"x": np.ones((batch, 8), np.float32)})
    except Exception:  # a division by zero, a negative count
        return None
    return float(y[0, 0]) if end == "as a number" else len(y) / batch


def compare(seed: int, end: str) -> None:
    made = drawn(seed, end)
    if isinstance(Flow(analyse(load(made)), {"x": 0}).outputs(), str):
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(made, options)
    except Exception:  # constants are folded as it loads
        return
    shares = {batch: share(session, batch, end) for batch in BATCHES}
    assert len({each for each in shares.values() if each is not None}) <= 1, shares


@pytest.mark.parametrize("end", ENDS)
def test_a_few(end: str) -> None:
    for seed in range(25):
        compare(seed, end)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
@pytest.mark.parametrize("end", ENDS)
def test_many(end: str, seed: int) -> None:
    compare(seed, end)
