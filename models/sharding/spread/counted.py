"""Numbers made of sizes: whether they are one polynomial of the batch, whatever it is.

Sums and products of sizes are polynomials, and what is the same for three batches is the same for
all. A comparison, a minimum or a quotient is one only where it takes the same side for every
batch: each is looked at with its operands for three batches, of which the sizes between and beyond
follow where they lie on a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ...weights import Array

Lines = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Of each element, what it is at a batch of one, and what each further row adds."""

COUNTED = {
    "Abs", "Add", "Cast", "Concat", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "ReduceProd",
    "ReduceSum", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
}  # fmt: skip
"""Operators that make sizes of sizes."""


def is_smooth(op: str, batches: Sequence[int], settings: Sequence[Sequence[Array | None]]) -> bool:
    """Say whether what a node makes of sizes is one polynomial of the batch.

    `settings` are the contents of its inputs for each of three batches, and of a Cast also those
    of its output; None: not known.
    """
    if op not in JUMPING:
        return op in COUNTED
    known = [[array for array in row if array is not None] for row in settings]
    if any(len(row) != len(settings[0]) for row in known):
        return False
    spread = [np.broadcast_arrays(*row) for row in known]
    if len({row[0].shape for row in spread}) > 1:
        return False
    operands = [np.stack(each).reshape(len(batches), -1) for each in zip(*spread, strict=True)]
    moves = np.any([(each != each[0]).any(axis=0) for each in operands], axis=0)
    return JUMPING[op](batches, [each[:, moves] for each in operands])


def _line(batches: Sequence[int], numbers: Array) -> Lines | None:
    """Return the lines on which numbers lie, None if they lie on none."""
    rows, values = np.array(batches, np.float64), numbers.astype(np.float64)
    slope = (values[1] - values[0]) / (rows[1] - rows[0])
    at_one = values[0] + slope * (1 - rows[0])
    is_line = np.array_equal(values, at_one + slope * (rows[:, None] - 1))
    return (at_one, slope) if is_line else None


def _keeps_side(is_strict: bool, batches: Sequence[int], operands: Sequence[Array]) -> bool:
    """Say whether of any two operands the same one is larger for every batch of a row or more."""
    for first, second in combinations(operands, 2):
        lines = _line(batches, first.astype(np.float64) - second)
        if lines is None:
            return False
        at_one, slope = lines
        sides = at_one * slope
        if not ((slope == 0) | (sides > 0 if is_strict else sides >= 0)).all():
            return False
    return True


def _is_compared(batches: Sequence[int], operands: Sequence[Array]) -> bool:
    return _keeps_side(True, batches, operands)


def _is_chosen(batches: Sequence[int], operands: Sequence[Array]) -> bool:
    return _keeps_side(False, batches, operands)


def _has_sign(batches: Sequence[int], operands: Sequence[Array]) -> bool:
    return _keeps_side(False, batches, [*operands, np.zeros_like(operands[0])])


def _divides(batches: Sequence[int], operands: Sequence[Array]) -> bool:
    """Say whether nothing is left over."""
    whole, by = operands
    return bool((by != 0).all()) and not np.any(np.fmod(whole, by))


def _leaves_the_same(batches: Sequence[int], operands: Sequence[Array]) -> bool:
    """Say whether each further row adds a multiple of what is divided by."""
    whole, by = operands
    lines = _line(batches, whole)
    is_fixed = (by == by[0]).all() and (by != 0).all()
    return lines is not None and bool(is_fixed) and not np.any(np.fmod(lines[1], by[0]))


def _is_kept(batches: Sequence[int], operands: Sequence[Array]) -> bool:
    before, after = operands
    return np.array_equal(before, after)


JUMPING: dict[str, Callable[[Sequence[int], Sequence[Array]], bool]] = {
    "Abs": _has_sign,
    "Cast": _is_kept,
    "Div": _divides,
    "Equal": _is_compared,
    "Greater": _is_compared,
    "GreaterOrEqual": _is_compared,
    "Less": _is_compared,
    "LessOrEqual": _is_compared,
    "Max": _is_chosen,
    "Min": _is_chosen,
    "Mod": _leaves_the_same,
}
"""Operators that are polynomials only for some operands, and for which."""
