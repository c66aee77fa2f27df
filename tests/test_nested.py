"""Queries that are cut within their groups, where the groups are fewer than the ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import graphs
import pytest
import ranks
from case import Case
from comparison import assert_same
from contrib_graphs.attention import decoder

from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.axes import Axis, Size, product
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.heads import nested_groups
from rankwise.models.sharding.layout import Layout
from rankwise.models.sharding.prices import prices
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding

CASES = {
    "two groups of four": (decoder(8, 2, packed=False), 4),
    "packed": (decoder(8, 2, packed=True), 4),
    "two groups of seven": (decoder(14, 2, packed=True, past=0, length=5), 4),
    "repeated by Expand": (graphs.GROUPED_QUERIES, 6),
}
"""Graphs, and numbers of ranks; heads of a group do not divide in all of them."""


def within_groups(case: Case, size: int) -> Sharding:
    """Cut the queries within their groups, and nothing else."""
    analysis = analyse(load(case.model))
    nested = nested_groups(analysis, size)
    analysis = replace(analysis, nested=nested)
    (each,) = (atom for atom, _, _ in shardable(analysis, size) if atom in nested)
    choice = Choice((), Layout.along([each], size, nested), 0.0, ())
    return Sharding(analysis, Mesh(tp=size), choice)


@pytest.mark.parametrize("name", CASES)
def test_queries_within_groups_give_the_same_outputs(name: str, tmp_path: Path) -> None:
    case, size = CASES[name]
    sharding = within_groups(case, size)
    assert sharding.parts[0].collectives["AllReduce"] == 1
    for made in ranks.run(sharding, case.feeds, tmp_path):
        assert_same(made, ranks.whole(case.model, case.feeds))


def test_ranks_of_a_group_have_the_same_keys() -> None:
    parts = within_groups(*CASES["two groups of four"]).parts
    kept = [part.held["wk/local"].kept[1] for part in parts]
    assert [indices.tolist() for indices in kept if indices is not None] == [
        list(range(16)), list(range(16)), list(range(16, 32)), list(range(16, 32))
    ]  # fmt: skip
    assert [part.held["wq/local"].shape for part in parts] == [(20, 32)] * 4


def test_a_contraction_of_groups_alone_is_no_sum_of_all_ranks() -> None:
    groups, each, width = (Axis(Size(n, n)) for n in (2, 4, 16))
    layout = Layout.along([each], 4, {each: groups})
    heads, keys = product([groups, each, width]), product([groups, width])
    assert heads is not None and keys is not None
    assert (layout.covers(heads), layout.covers(keys), layout.covers(each)) == (True, False, False)
    assert [layout.part(groups, rank) for rank in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert [layout.part(each, rank) for rank in range(4)] == [(0, 2), (1, 2), (0, 2), (1, 2)]


def test_they_are_cut_so_where_little_is_held_twice() -> None:
    graph = load(decoder(32, 2, packed=False).model)
    sharding = plan(graph, Mesh(tp=4))
    (chosen,) = sharding.choice.chosen
    assert sharding.analysis.nested[chosen.atom].size.first == 2
    assert {"wq", "wk", "wv", "wo"} <= set(chosen.weights)
    assert max(part.weight_bytes for part in sharding.parts) < 0.3 * graph.weight_bytes
    axes = {row.axis: row.outcome for row in prices(sharding.analysis, sharding.choice)}
    assert axes["(2*16)"] == "taken"
