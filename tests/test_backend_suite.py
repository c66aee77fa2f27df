"""A sample of ONNX's backend suite, sharded; scripts/backend_suite.py runs all of it."""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx.backend.test.loader import load_model_tests

SCRIPT = Path(__file__).parents[1] / "scripts" / "backend_suite.py"
EVERY = {"node": 32, "simple": 1, "pytorch-converted": 4, "pytorch-operator": 4}
"""One case in so many, by kind."""


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backend_suite", SCRIPT)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


suite = module()


def cases(kind: str) -> list[Any]:
    with warnings.catch_warnings(action="ignore"):  # the suite's own arithmetic overflows
        return list(suite.cases(kind))


@pytest.mark.parametrize("kind", EVERY)
def test_what_onnxruntime_passes_passes_on_ranks(kind: str) -> None:
    counts = Counter[str]()
    for case in cases(kind)[:: EVERY[kind]]:
        for label, answer in suite.answers(case, (2, 3), seed=0):
            known = answer in ("ok", "whole", "stock") or case.name in suite.EXCEPTIONS
            assert known, f"{case.name} {label}: {answer}"
            counts[answer] += 1
    assert counts["ok"] > 10


def test_exceptions_are_cases_of_the_suite() -> None:
    kinds = (kind for kind in suite.KINDS if kind != "light")
    names = {test.name for kind in kinds for test in load_model_tests(kind=kind)}
    assert set(suite.EXCEPTIONS) <= names


def test_another_answer_is_a_fault() -> None:
    (case,) = (case for case in cases("simple") if case.name == "test_sign_model")
    given = case.data[0][1]
    with pytest.raises(AssertionError, match="Not equal"):
        suite.compare([np.asarray(given[0]) + 1], given)
    assert suite.check(case, 2, 0) == "ok"
