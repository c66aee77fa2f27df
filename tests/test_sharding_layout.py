"""Layouts: which indices of a dim a rank holds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from rankwise.models.sharding.axes import Axis, Size, concatenation, product
from rankwise.models.sharding.layout import Layout
from rankwise.models.weights import bounds


def atom(size: int) -> Axis:
    return Axis(Size(size, size))


@pytest.mark.parametrize("total", [1, 2, 5, 7, 12, 50257])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_bounds_are_those_of_array_split(total: int, size: int) -> None:
    for rank, part in enumerate(np.array_split(np.arange(total), size)):
        assert list(range(*bounds(total, rank, size))) == part.tolist()


def test_heads_in_the_middle_of_a_product() -> None:
    outer, heads, width = atom(2), atom(7), atom(3)
    axis = product([outer, heads, width])
    layout = Layout(frozenset([heads]), 3)
    index = np.arange(2 * 7 * 3).reshape(2, 7, 3)
    for rank, part in enumerate(np.array_split(index, 3, axis=1)):
        np.testing.assert_array_equal(layout.indices(axis, rank), part.reshape(-1))
        assert layout.local(axis, rank) == Size(part.size, part.size)
        assert layout.fraction(axis, rank) == Fraction(part.size, 42)


def test_a_sum_keeps_what_is_not_sharded_on_every_rank() -> None:
    queries, keys = atom(4), atom(3)
    axis = concatenation([queries, keys])
    layout = Layout(frozenset([queries]), 2)
    np.testing.assert_array_equal(layout.indices(axis, 1), [2, 3, 4, 5, 6])
    assert layout.holds(axis)
    assert not layout.covers(axis)


def test_a_sum_is_covered_when_all_of_its_parts_are() -> None:
    half = atom(4)
    layout = Layout(frozenset([half]), 2)
    assert layout.covers(concatenation([half, half]))
    np.testing.assert_array_equal(layout.indices(concatenation([half, half]), 0), [0, 1, 4, 5])


def test_an_open_factor_beside_a_shard_counts_at_both_settings() -> None:
    batch, heads = Axis(Size(5, 7)), atom(12)
    axis = product([batch, heads])
    assert Layout(frozenset([heads]), 4).local(axis, 0) == Size(15, 21)


def test_an_axis_without_a_shard_keeps_all() -> None:
    layout = Layout(frozenset(), 4)
    assert layout.indices(atom(5), 2) is None
    assert layout.indices(None, 2) is None
