"""Random graphs under random layouts, and what is and is not drawn."""

from __future__ import annotations

from typing import Any

import fuzz
import numpy as np
import pytest
from fuzz import grow, values
from fuzz.draft import Draft, Node
from fuzz.special import SPECIAL
from onnx import helper
from ranks import operators

from rankwise.models.sharding.rewrite import Call, Local
from rankwise.models.sharding.rules import RULES, convolution

SEED = 4
TOGETHER = 20
"""Graphs in one test."""

MOST = 2
"""Layouts of each graph; scripts/fuzz_sharding.py runs all."""


def checked(number: int, size: int, most: int | None = MOST) -> fuzz.Checked:
    rng = np.random.default_rng((SEED, number, size))
    return fuzz.check(fuzz.draw(SEED, number), size, rng, most)


@pytest.mark.parametrize("size", (2, 3, 4))
@pytest.mark.parametrize("first", range(0, 300, 3 * TOGETHER))
def test_random_graphs_give_the_same_on_ranks(first: int, size: int) -> None:
    layouts = 0
    for number in range(first + size - 2, first + 3 * TOGETHER, 3):
        found = checked(number, size)
        assert found.differences == (), f"--first {number} --graphs 1 --seed {SEED} --sizes {size}"
        layouts += found.layouts
    assert layouts > 1.5 * TOGETHER


def drafted(opset: int, *arrays: Any) -> Draft:
    """A graph of inputs alone."""
    rng = np.random.default_rng(SEED)
    given = [values.fed(f"x{k}", [array, array], rng) for k, array in enumerate(arrays)]
    graph = helper.make_graph([], "fuzz", [], [])
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return Draft(rng, model, [value for value in given if value])


OPSETS = (12, 20, 24)
"""One of them has each operator, and onnxruntime a kernel for it."""

NEVER = {"BitCast", "If", "Loop", "Range", "Scan"}
"""onnxruntime has no kernel for BitCast; Range reads scalars alone, which have no dims; bodies are
made of whole graphs."""


def test_every_operator_with_a_rule_may_be_drawn() -> None:
    rng = np.random.default_rng(SEED)
    fed = [
        rng.standard_normal((2, 3, 4, 4)).astype("f4"), rng.random((3, 4)).astype("f4"),
        rng.random((3, 4)).astype("f4") + 1, rng.integers(0, 9, (3, 4)),
        rng.integers(0, 9, (3, 4)).astype("u1"), rng.random((3, 4)) < 0.5, np.array([2, 3]),
        rng.standard_normal((3, 4, 5)).astype("f4"),
    ]  # fmt: skip
    drafts = [drafted(opset, *fed) for opset in OPSETS]
    begun = (grow.begun(case, rng) for case in grow.known())
    known = set().union(*(operators(draft.model) for draft in begun if draft))
    rest = [op for op in RULES if ("", op) not in known]
    assert {op for op in rest if not any(_is_drawn(d, op) for d in drafts)} == NEVER
    assert {op for op in SPECIAL if not any(_is_drawn(d, op) for d in drafts)} == set()


def _is_drawn(draft: Draft, op: str) -> bool:
    nodes = (grow.node(draft, op, x) for _ in range(12) for x in draft.given)
    return any(node is not None and draft.add(node) for node in nodes)


@pytest.mark.parametrize(("largest", "is_kept"), (([3, 1, 2.5], True), ([3, 1, 3], False)))
def test_what_hangs_on_a_tie_is_not_kept(largest: list[float], is_kept: bool) -> None:
    draft = drafted(18, np.array([largest], np.float32))
    assert draft.add(Node("ArgMax", ["x0"], {"axis": 1})) is is_kept


@pytest.mark.parametrize(("divisor", "is_kept"), ((0.5, True), (1e-7, False)))
def test_what_drowns_in_rounding_is_not_kept(divisor: float, is_kept: bool) -> None:
    draft = drafted(18, np.array([[1 + divisor, 2]], np.float32), np.ones((1, 2), np.float32))
    draft.add(Node("Sub", ["x0", "x1"]))
    assert draft.add(Node("Log", [draft.values[-1].name])) is is_kept


def test_the_same_number_draws_the_same_graph() -> None:
    one, other = fuzz.draw(SEED, 5), fuzz.draw(SEED, 5)
    assert one.model == other.model
    np.testing.assert_equal(one.feeds, other.feeds)


def test_random_graphs_find_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_bias(local: Local, position: int = 2) -> Call:
        return local.unchanged()

    monkeypatch.setattr(convolution, "bias_once", every_bias)
    found = (text for number in range(60) for text in checked(number, 2, None).differences)
    assert any("differs: Not equal to tolerance" in text for text in found)
