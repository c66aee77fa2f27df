"""What outputs may differ in: as much as rounding makes, and no more."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from comparison import TOLERANCES, assert_same

VALUES = np.array([1.0, -3.0, 0.25, 100.0])


@pytest.mark.parametrize("name", TOLERANCES)
@pytest.mark.parametrize(("times", "is_same"), [(0.4, True), (2.5, False)])
def test_floats_may_differ_by_what_their_type_lets_them(
    name: str, times: float, is_same: bool
) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    want = VALUES.astype(dtype)
    got = (VALUES * (1 + times * TOLERANCES[name][0])).astype(dtype)
    if is_same:
        assert_same([got], [want])
    else:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_same([got], [want])


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
