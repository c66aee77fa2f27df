"""A sample of ONNX's backend suite, sharded; scripts/backend_suite.py runs all of it."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import script
from onnx import TensorProto, helper

suite = script.load("backend_suite")

SAMPLES = {
    "node": (32, 110),
    "simple": (1, 8),
    "pytorch-converted": (4, 32),
    "pytorch-operator": (4, 12),
}
"""By kind: one case in so many is run, of which so many runs at least are on parts."""


def cases(kind: str) -> list[Any]:
    with warnings.catch_warnings(action="ignore"):  # the suite's own arithmetic overflows
        return list(suite.cases(kind))


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_onnxruntime_passes_passes_on_ranks(kind: str) -> None:
    counts, (every, least) = Counter[str](), SAMPLES[kind]
    for case in cases(kind)[::every]:
        for label, answer in suite.answers(case, (2, 3), seed=0):
            known = answer in ("ok", "whole", "stock") or case.name in suite.EXCEPTIONS
            assert known, f"{case.name} {label}: {answer}"
            counts[answer] += 1
    assert counts["ok"] >= least


@pytest.fixture(scope="module")
def sign() -> Any:
    (case,) = (case for case in cases("simple") if case.name == "test_sign_model")
    return case


def test_another_answer_is_a_fault(sign: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suite.check(sign, 2, 0) == "ok"
    monkeypatch.setattr(suite.Rep, "run", lambda self, fed: (sign.data[0][1][0] + 1,))
    assert "Not equal to tolerance" in suite.check(sign, 2, 0)


def test_another_answer_of_a_later_rank_is_a_fault(
    sign: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [[sign.data[0][1][0] + rank] for rank in (0, 1)]
    monkeypatch.setattr(suite.Rep, "on_ranks", lambda self, fed: answers)
    assert "Not equal to tolerance" in suite.check(sign, 2, 0)


def test_what_onnxruntime_refuses_is_told_from_what_cannot_be_fed(
    sign: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = helper.make_model(sign.model.graph, opset_imports=[helper.make_opsetid("", 9999)])
    assert suite.check(sign._replace(model=model), 2, 0) == "stock"

    def fail(*_: Any) -> None:
        raise TypeError("no feed")

    monkeypatch.setattr(suite, "stock", fail)
    assert suite.check(sign, 2, 0) == "before a layout: TypeError('no feed')"


def test_integers_of_four_bits_are_fed_as_weights_and_taken_wider() -> None:
    found = {case.name: case for case in cases("node") if "INT4_to_" in case.name}
    case = suite.feedable(found["test_cast_INT4_to_FLOAT"])
    assert (len(case.model.graph.input), len(case.model.graph.initializer)) == (0, 1)
    case = suite.feedable(next(c for c in cases("node") if c.name == "test_cast_FLOAT_to_INT4"))
    assert case.model.graph.output[0].type.tensor_type.elem_type == TensorProto.INT8
    (given,) = case.data[0][1]
    assert given.dtype == np.int8
    assert suite.check(case, 2, 0) == "ok"
