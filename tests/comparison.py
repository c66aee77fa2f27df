"""What of the outputs of ranks may differ from those of the whole graph: rounding alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

TOLERANCES: Mapping[str, tuple[float, float]] = {
    "float64": (1e-9, 1e-11), "complex128": (1e-9, 1e-11),
    "float32": (1e-4, 1e-6), "complex64": (1e-4, 1e-6),
    "float16": (1e-2, 1e-3), "bfloat16": (5e-2, 5e-3),
}  # fmt: skip
"""What rounding may make of an element, as a part of itself and of the largest; what has another
type must be the same."""


def assert_same(got: Any, want: Any, tolerance: tuple[float, float] | None = None) -> None:
    """Compare outputs, or lists of them. Raises AssertionError.

    `tolerance` is another one of floats than that of their type.
    """
    if isinstance(want, list | tuple):
        assert len(got) == len(want), f"{len(got)} values, not {len(want)}"
        for a, b in zip(got, want, strict=True):
            assert_same(a, b, tolerance)
        return
    if not isinstance(want, np.ndarray | np.generic):
        assert got == want, f"{got!r}, not {want!r}"
        return
    assert (got.shape, got.dtype) == (want.shape, want.dtype), (
        f"{got.dtype} {got.shape}, not {want.dtype} {want.shape}"
    )
    name = want.dtype.name
    if name in TOLERANCES or want.dtype.type.__module__ == ml_dtypes.__name__:
        wide = np.complex128 if want.dtype.kind == "c" else np.float64
        got, want = got.astype(wide), want.astype(wide)  # where NaN equals NaN
    if name not in TOLERANCES:
        np.testing.assert_array_equal(got, want)
        return
    rtol, part = tolerance or TOLERANCES[name]
    largest = np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=part * largest)
