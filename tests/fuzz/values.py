"""What a tensor of a graph holds: at two settings of the open dims, and with noise on it.

Ranks add in another order than one process does. A graph that makes another answer of such a
difference, as ArgMax does of two equals or Round of a half, cannot be compared. So each node is
run three times: as it is, and on inputs with noise far above rounding, with either sign. It stays
in the graph if its outputs hardly move, and noise is put on them anew. What is then compared has
no ties, and is not so ill-conditioned that the comparison would have to be loose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from ranks import quiet

Array = np.ndarray[Any, np.dtype[Any]]

SETTINGS = ({"b": 2, "s": 5}, {"b": 3, "s": 4})
"""Sizes of the open dims at which a graph must run, and at which it is compared."""

OPEN = "open_"

SIGNS = (0, 1, -1)
"""Of the noise, at each setting."""

NOISE = 4e-6
"""As a part of the largest element: some dozen roundings of float32."""

DRIFT = 5e-4
"""Outputs may move by this much, as a part of the largest element."""

SMALLEST, LARGEST, ELEMENTS, DIMS = 0.01, 1e3, 20_000, 5
"""Of tensors that say something: in others a wrong branch may not show, or not be affordable."""


class Value(NamedTuple):
    """A tensor and its contents: by setting, and within one by sign."""

    name: str
    runs: tuple[Array, ...]

    @property
    def arrays(self) -> tuple[Array, Array]:
        """Contents without noise, at both settings."""
        return self.runs[0], self.runs[len(SIGNS)]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.runs[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.runs[0].shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def is_static(self, dim: int) -> bool:
        first, second = self.arrays
        return bool(first.shape[dim] == second.shape[dim])


def run(model: onnx.ModelProto, given: Sequence[Value], rng: np.random.Generator) -> list[Value]:
    """Return a model's outputs; none where it does not run, or one of them is not to be kept."""
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), quiet(is_optimised=False)
        )
        runs = [
            session.run(None, {value.name: value.runs[k] for value in given})
            for k in range(len(SETTINGS) * len(SIGNS))
        ]
    except Exception:  # onnxruntime's errors have no base of their own
        return []
    names = [value.name for value in model.graph.output]
    rows = map(list, zip(*runs, strict=True))
    made = [noisy(name, row, rng) for name, row in zip(names, rows, strict=True)]
    return [value for value in made if value] if all(made) else []


def open_dim(first: int, second: int) -> str:
    """Return a name for a dim that has these sizes at the two settings."""
    return f"{OPEN}{first}_{second}"


def fed(name: str, arrays: Sequence[Array], rng: np.random.Generator) -> Value | None:
    """Return a tensor that is fed so at the two settings."""
    return noisy(name, [array for array in arrays for _ in SIGNS], rng)


def noisy(name: str, runs: list[Array], rng: np.random.Generator) -> Value | None:
    """Put noise on a tensor; None where it says nothing, or has moved too far already."""
    found = list[Array]()
    for k in range(0, len(runs), len(SIGNS)):
        still = runs[k]
        if not _says_something(still):
            return None
        noise = np.zeros(still.shape)
        if still.dtype.kind == "f":
            size = NOISE * np.abs(still).max()
            noise = size * rng.uniform(0.5, 1, still.shape) * rng.choice((-1, 1), still.shape)
        for sign, moved in zip(SIGNS, runs[k : k + len(SIGNS)], strict=True):
            if not _is_near(moved, still):
                return None
            found.append((moved + sign * noise).astype(still.dtype) if sign else still)
    return Value(name, tuple(found))


def _says_something(array: Any) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bfiu":
        return False
    if not 0 < array.size <= ELEMENTS or array.ndim > DIMS or array.dtype == np.float16:
        return False
    if array.dtype.kind != "f":
        return bool(np.all(np.abs(array.astype(np.float64)) <= LARGEST))
    return bool(np.all(np.isfinite(array)) and SMALLEST <= np.abs(array).max() <= LARGEST)


def _is_near(moved: Array, still: Array) -> bool:
    if moved.shape != still.shape:
        return False
    if still.dtype.kind != "f":
        return np.array_equal(moved, still)
    return bool(np.abs(moved - still).max() <= DRIFT * np.abs(still).max())
