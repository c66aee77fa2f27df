"""What outputs may differ in: as much as rounding makes, and no more."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from comparison import assert_same

VALUES = np.array([1.0, -3.0, 0.25, 100.0])


@pytest.mark.parametrize(
    ("name", "rounding", "wrong"),
    [
        ("float64", 4e-10, 3e-9),
        ("complex128", 4e-10, 3e-9),
        ("float32", 4e-5, 3e-4),
        ("complex64", 4e-5, 3e-4),
        ("float16", 4e-3, 3e-2),
        ("bfloat16", 2e-2, 1.3e-1),
    ],
)
def test_floats_may_differ_by_what_their_type_lets_them(
    name: str, rounding: float, wrong: float
) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    want = VALUES.astype(dtype)
    assert_same([(VALUES * (1 + rounding)).astype(dtype)], [want])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same([(VALUES * (1 + wrong)).astype(dtype)], [want])


def test_a_small_element_beside_a_large_one_has_the_rounding_of_a_sum() -> None:
    want = np.float32([1e-3, 100])
    assert_same(want + np.float32([5e-5, 0]), want)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(want + np.float32([2e-4, 0]), want)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.float32([1, np.nan]), np.float32([1, 2])),
        (np.float32([1, 2]), np.float32([1, np.nan])),
        (np.float32([1, np.inf]), np.float32([1, -np.inf])),
        (np.float32([1, 2]), np.float64([1, 2])),
        (np.float32([1, 2]), np.float32([[1, 2]])),
        (np.array([1, 2], ml_dtypes.float8_e5m2), np.array([1, 2.5], ml_dtypes.float8_e5m2)),
        (np.array([1, 2], ml_dtypes.int4), np.array([1, 3], ml_dtypes.int4)),
        (np.array(["a", "b"], object), np.array(["a", "c"], object)),
        ([np.ones(2)], [np.ones(2), np.ones(2)]),
        ([[np.ones(2)]], [[np.zeros(2)]]),
        (None, 1),
    ],
)
def test_all_else_must_be_the_same(got: Any, want: Any) -> None:
    assert_same(want, want)
    with pytest.raises(AssertionError):
        assert_same(got, want)
