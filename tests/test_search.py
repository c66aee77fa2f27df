"""The choice: an exact independent set, what it is fed, and what it is made for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from rankwise.models.errors import MeshError
from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import candidates
from rankwise.models.sharding.heads import choose_by_head
from rankwise.models.sharding.independent import independent_set
from rankwise.models.sharding.machine import HERE, Machine
from rankwise.models.sharding.search import SLACK, Terms, choose
from rankwise.models.states import pairs

graphs_of_conflicts = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(-3, 9), min_size=count, max_size=count),
        st.sets(st.sampled_from(list(itertools.combinations(range(count), 2)) or [(0, 0)])),
    )
)


@given(graphs_of_conflicts)
def test_the_set_is_worth_as_much_as_the_best_by_enumeration(
    drawn: tuple[list[int], set[tuple[int, int]]],
) -> None:
    worth, pairs = drawn
    edges = [{b for a, b in _both(pairs) if a == k} for k in range(len(worth))]
    kept = independent_set(worth, edges)
    assert not any(b in edges[a] for a, b in itertools.permutations(kept, 2))
    subsets = itertools.chain.from_iterable(
        itertools.combinations(range(len(worth)), n) for n in range(len(worth) + 1)
    )
    best = max(
        sum(worth[k] for k in subset)
        for subset in subsets
        if not any(b in edges[a] for a, b in itertools.permutations(subset, 2))
    )
    assert sum(worth[k] for k in kept) == best


def _both(pairs: set[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairs if a != b] + [(b, a) for a, b in pairs if a != b]


def test_what_an_inner_width_saves_and_sends() -> None:
    analysis = analyse(load(graphs.MLP.model))
    (inner,) = (c for c in candidates(analysis, 2) if "w2" in c.weights and "w1" in c.weights)
    assert inner.saved == (16 * 30 + 30 + 30 * 9) * 4 / 2
    assert inner.sent == 2 * (9 * 4) / 2
    products, made = 16 * 30 + 30 * 9, 3 * 30
    computed = (products / HERE.multiply_adds + made / HERE.made) / 2
    assert inner.gained == pytest.approx(computed + inner.saved / HERE.read)
    assert inner.spent == HERE.moving(inner.moved)


def test_a_state_that_stays_on_its_ranks_costs_nothing() -> None:
    analysis = analyse(load(graphs.CACHED.model))
    (heads,) = (c for c in candidates(analysis, 2) if c.atom.size.first == 6)
    assert heads.sent == 2 * (256 * 24 * 4) / 2


@pytest.mark.parametrize(
    ("output", "fed"),
    [
        ("present.0.key", "past.0.key"),
        ("present.11.value", "past_key_values.11.value"),
        ("present_key_values.1.key", "past_key_values.1.key"),
        ("present_conv_0", "past_conv_0"),
    ],
)
def test_a_state_is_found_by_its_name(output: str, fed: str) -> None:
    model = graphs.build("(float[b] x, float[b] p) => (float[b] y, float[b] q) { y = Neg(x) }")
    model.graph.input[1].name = fed
    model.graph.output[1].name = output
    model.graph.node.append(helper.make_node("Add", ["x", fed], [output]))
    assert pairs(load(model)) == {output: fed}


def test_an_axis_with_fewer_parts_than_ranks_is_no_candidate() -> None:
    analysis = analyse(load(graphs.GROUPED_QUERIES.model))
    assert all(c.atom.size.first >= 4 for c in candidates(analysis, 4))


@pytest.mark.parametrize("name", graphs.CASES)
def test_the_choice_does_not_depend_on_the_order_of_sets(name: str) -> None:
    names = set()
    for _ in range(3):
        choice = choose(analyse(load(graphs.CASES[name].model)), 3)
        names.add(tuple(candidate.weights for candidate in choice.chosen))
    assert len(names) == 1


def slow(alpha: float) -> Machine:
    return replace(HERE, cluster=replace(HERE.cluster, alpha=alpha))


TEXT = """(int64[b,s] x) => (float[b,s,200] y) {
  e = Gather(table, x)
  u = MatMul(e, up)
  g = Relu(u)
  d = MatMul(g, down)
  y = MatMul(d, head)
}"""
WIDE = graphs.build(TEXT, table=(9000, 128), up=(128, 512), down=(512, 128), head=(128, 200))


def test_a_table_is_cut_for_its_bytes_and_products_for_their_time() -> None:
    analysis = analyse(load(WIDE))
    total = analysis.graph.weight_bytes
    roomy = choose(analysis, 2, Terms(memory=total))
    assert {name for c in roomy.chosen for name in c.weights} == {"up", "down", "head"}
    assert roomy.price == 0
    even = choose(analysis, 2)
    assert {name for c in even.chosen for name in c.weights} > {"table", "up", "down"}
    assert even.heaviest <= 1 / 2 + SLACK
    assert even.price > 0


def test_the_price_is_the_least_that_fits_the_memory() -> None:
    analysis = analyse(load(WIDE))
    total = analysis.graph.weight_bytes
    for part in (0.95, 0.6, 0.5):
        choice = choose(analysis, 2, Terms(memory=round(part * total)))
        assert choice.heaviest <= part
        assert choose(analysis, 2, Terms(memory=total)).seconds <= choice.seconds
    with pytest.raises(MeshError, match=r"at most 1,000 bytes on each rank, but on 2 ranks the"):
        choose(analysis, 2, Terms(memory=1000))


def test_heads_are_taken_one_by_one_where_that_is_faster_and_fits() -> None:
    analysis = analyse(load(graphs.GROUPED_QUERIES.model))
    total = analysis.graph.weight_bytes
    roomy, even = (
        choose_by_head(analysis, 4, terms)[1] for terms in (Terms(memory=total), Terms())
    )
    assert [c.weights for c in roomy.chosen] == [("wq", "wo")]
    assert [c.weights for c in even.chosen] == [("wq", "wk", "wo", "wh")]
    assert roomy.seconds < 0 < even.seconds


def test_collectives_that_take_long_are_avoided() -> None:
    analysis = analyse(load(WIDE))
    total = analysis.graph.weight_bytes
    calls = [
        sum(len(c.moved) for c in choose(analysis, 2, Terms(slow(alpha), total)).chosen)
        for alpha in (1e-7, 1e-1)
    ]
    assert calls[0] > calls[1] == 1


def test_the_channels_of_an_image_are_no_bargain() -> None:
    model = graphs.build(
        """(float[b,3,224,224] x) => (float[b,64,220,220] y) {
          a = Conv(x, stem)
          c = Relu(a)
          m = Conv(c, wide)
          n = Relu(m)
          y = Conv(n, narrow)
        }""",
        stem=(64, 3, 3, 3), wide=(256, 64, 3, 3), narrow=(64, 256, 1, 1),
    )  # fmt: skip
    chosen = choose(analyse(load(model)), 2).chosen
    assert [c.atom.size.first for c in chosen] == [256]
