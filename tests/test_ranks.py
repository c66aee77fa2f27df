"""The ranks that tests run graphs on: each of them answers, and tells what it runs on parts."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest
import ranks
from comparison import assert_same
from onnx import helper

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.write import Sharding


@pytest.fixture
def uncut() -> Sharding:
    """Every rank has the whole graph, and none communicates."""
    return ranks.cut_along(analyse(load(graphs.MLP.model)), [], 3)


def test_every_rank_answers_where_none_communicates(uncut: Sharding, tmp_path: Path) -> None:
    assert not uncut.parts[0].collectives
    answers = ranks.run(uncut, graphs.MLP.feeds, tmp_path)
    assert len(answers) == 3
    for got in answers:
        assert_same(got, ranks.whole(*graphs.MLP))


def test_a_wrong_part_of_a_later_rank_shows(uncut: Sharding, tmp_path: Path) -> None:
    relu = uncut.parts[2].nodes[2]
    uncut.parts[2].nodes[2] = helper.make_node("Sigmoid", relu.input, relu.output)
    first, second, third = ranks.run(uncut, graphs.MLP.feeds, tmp_path)
    assert_same(second, first)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(third, first)


def test_operators_on_parts_are_named_with_their_domain(uncut: Sharding) -> None:
    analysis = uncut.analysis
    assert ranks.on_parts(uncut) == set()
    (atom,) = (a for a in ranks.passing(analysis, 2, "Relu") if a.size.first == 30)
    cut = ranks.on_parts(ranks.cut_along(analysis, atom, 2))
    assert cut == {("", "MatMul"), ("", "Add"), ("", "Relu"), ("", "Gemm")}
    assert cut == ranks.operators(graphs.MLP.model)
