"""Axes: products and sums in a union-find."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwise.models.sharding.axes import (
    Axis,
    Conflict,
    Size,
    atoms,
    concatenation,
    cut,
    cut_at,
    find,
    product,
    split,
    unify,
    unify_rows,
)


def static(size: int) -> Size:
    return Size(size, size)


def atom(size: int) -> Axis:
    return Axis(static(size))


def test_two_atoms_become_one_wherever_they_are_held() -> None:
    a, b, c = atom(6), atom(6), atom(6)
    unify(a, b)
    unify(b, c)
    assert find(a) is find(b) is find(c)


def test_a_long_chain_is_found_in_one_step_afterwards() -> None:
    chain = [atom(2) for _ in range(100)]
    for a, b in pairwise(chain):
        a.become(b)
    assert find(chain[0]) is chain[-1]
    assert all(axis.link is chain[-1] for axis in chain[:-1])


def test_a_reshape_shows_heads_to_everyone_who_holds_the_dim() -> None:
    hidden, heads, width = atom(96), atom(6), atom(16)
    unify_rows([hidden], [heads, width])
    assert [find(leaf) for leaf in atoms(hidden)] == [find(heads), find(width)]
    assert repr(hidden) == "(6*16)"


def test_grouped_queries_refine_six_heads_into_three_groups_of_two() -> None:
    queries, groups, each = atom(6), atom(3), atom(2)
    unify_rows([queries], [groups, each])
    assert repr(queries) == "(3*2)"


def test_dims_that_share_no_border_conflict() -> None:
    with pytest.raises(Conflict):
        unify_rows([atom(4), atom(6)], [atom(6), atom(4)])


def test_parts_that_are_products_are_not_split_at_more_than_they_have() -> None:
    part = product([atom(2), atom(2)])
    assert part is not None
    with pytest.raises(Conflict, match="cannot be split at 6"):
        split(concatenation([part, part, part]), static(6))


def test_an_open_dim_is_never_taken_for_a_fixed_one() -> None:
    batch, heads = Axis(Size(12, 7)), atom(12)
    with pytest.raises(Conflict, match="differ in size"):
        unify(batch, heads)


def test_a_merged_batch_falls_apart_into_batch_and_heads() -> None:
    merged, batch, heads = Axis(Size(60, 84)), Axis(Size(5, 7)), atom(12)
    unify_rows([merged], [batch, heads])
    assert [find(leaf) for leaf in atoms(merged)] == [find(batch), find(heads)]


def test_a_packed_dim_is_cut_at_heads_and_its_thirds_share_them() -> None:
    packed = atom(288)
    thirds = cut_at(packed, [static(96)] * 3)
    heads = [atom(6) for _ in range(3)]
    for third, head in zip(thirds, heads, strict=True):
        unify_rows([third], [head, atom(16)])
    unify(heads[0], heads[1])
    unify(heads[1], heads[2])
    assert repr(packed) == "[(6*16)+(6*16)+(6*16)]"
    assert len({find(head) for head in heads}) == 1


def test_a_product_is_cut_in_its_slowest_factor_only() -> None:
    axis = product([atom(6), atom(16)])
    assert axis is not None
    low, high = cut(axis, static(32))
    assert (repr(low), repr(high)) == ("(2*16)", "(4*16)")
    with pytest.raises(Conflict, match="cannot be cut"):
        cut(axis, static(40))


def test_a_sum_is_cut_between_its_parts_and_within_one() -> None:
    axis = concatenation([atom(4), atom(6)])
    low, high = cut(axis, static(4))
    assert (repr(low), repr(high)) == ("4", "6")
    low, high = cut(axis, static(7))
    assert (repr(low), repr(high)) == ("[4+3]", "3")


def test_two_sums_are_refined_to_all_their_borders() -> None:
    a, b = concatenation([atom(4), atom(6)]), concatenation([atom(7), atom(3)])
    unify(a, b)
    assert [find(x) for x in atoms(a)] == [find(x) for x in atoms(b)]
    assert [x.size.first for x in atoms(a)] == [4, 3, 3]


def test_a_sum_split_by_an_inner_size_splits_every_part_alike() -> None:
    axis = concatenation([atom(96), atom(48)])
    outer, inner = split(axis, static(16))
    assert (repr(outer), repr(inner)) == ("[6+3]", "16")
    assert repr(axis) == "([6+3]*16)"


def test_a_product_becomes_a_sum_part_by_part() -> None:
    whole = product([atom(6), atom(16)])
    assert whole is not None
    unify(whole, concatenation([atom(64), atom(32)]))
    assert repr(whole) == "([4+2]*16)"


factors = st.lists(st.sampled_from([2, 3, 5, 7]), min_size=1, max_size=6)


@given(factors, st.data())
def test_two_groupings_of_the_same_factors_always_unify(
    row: list[int], data: st.DataObject
) -> None:
    def grouped() -> list[Axis]:
        ends = data.draw(st.sets(st.integers(1, len(row) - 1)) if len(row) > 1 else st.just(set()))
        places = [0, *sorted(ends), len(row)]
        return [atom(math.prod(row[a:b])) for a, b in pairwise(places)]

    left, right = grouped(), grouped()
    unify_rows(list(left), list(right))
    ours = [find(x) for axis in left for x in atoms(axis)]
    theirs = [find(x) for axis in right for x in atoms(axis)]
    assert ours == theirs
    assert math.prod(x.size.first for x in ours) == math.prod(row)
