"""Every algorithm is proved for 1 to 64 ranks, and does what its docstring says that it costs."""

from collections.abc import Callable
from math import ceil, floor, log2

import pytest

from rankwise.collectives.cost import seconds, traffic
from rankwise.collectives.simulate import prove
from rankwise.collectives.specs import SPECS
from rankwise.collectives.table import TABLE, lookup

SIZES = range(1, 65)
NAMED = [(collective, name) for collective, names in TABLE.items() for name in names]


def roots(collective: str, size: int) -> list[int]:
    """The first, the second, a middle one and the last; any one where there is no root."""
    return sorted({0, 1 % size, size // 2, size - 1}) if SPECS[collective].rooted else [0]


@pytest.mark.parametrize(("collective", "name"), NAMED)
def test_it_is_right_for_1_to_64_ranks(collective: str, name: str) -> None:
    algorithm, ordered = lookup(collective, name)
    ordered = ordered and SPECS[collective].reduces
    for size in SIZES:
        for root in roots(collective, size):
            prove(collective, algorithm, size, root, ordered=ordered)


def ceil_lg(p: int) -> int:
    return ceil(log2(p))


def folding(p: int) -> bool:
    return p & (p - 1) != 0


def largest_part(p: int) -> int:
    """The ranks below the busiest child of a binomial tree's root, itself among them."""
    h = 2 ** (ceil_lg(p) - 1)
    return int(max(p - h, h / 2))


# (rounds, blocks that the busiest rank sends) of p ranks, as in the docstrings.
FORMS: dict[tuple[str, str], Callable[[int], tuple[int, int]]] = {
    ("allreduce", "ring"): lambda p: (2 * (p - 1), 2 * (p - 1)),
    ("allreduce", "tree"): lambda p: (2 * ceil_lg(p), p * ceil_lg(p)),
    ("allreduce", "recursive_doubling"): lambda p: (
        floor(log2(p)) + 2 * folding(p),
        p * (floor(log2(p)) + folding(p)),
    ),
    ("reduce_scatter", "ring"): lambda p: (p - 1, p - 1),
    ("reduce_scatter", "tree"): lambda p: (2 * ceil_lg(p), (p > 1) * (p - 1 + largest_part(p))),
    ("allgather", "ring"): lambda p: (p - 1, p - 1),
    ("allgather", "tree"): lambda p: (2 * ceil_lg(p), p * ceil_lg(p)),
    ("broadcast", "tree"): lambda p: (ceil_lg(p), p * ceil_lg(p)),
    ("reduce", "tree"): lambda p: (ceil_lg(p), p * (p > 1)),
    ("reduce", "ordered_tree"): lambda p: (ceil_lg(p), p * (p > 1)),
    ("scatter", "tree"): lambda p: (ceil_lg(p), p - 1),
    ("gather", "tree"): lambda p: (ceil_lg(p), largest_part(p)),
    ("alltoall", "pairwise"): lambda p: (p, p - 1),
}


@pytest.mark.parametrize(("collective", "name"), FORMS)
def test_its_rounds_and_blocks_are_the_closed_forms(collective: str, name: str) -> None:
    algorithm = lookup(collective, name).algorithm
    for size in SIZES:
        counted = traffic(algorithm, size, 0 if SPECS[collective].rooted else None)
        assert (counted.rounds, max(counted.sent)) == FORMS[collective, name](size), size
        assert sum(counted.sent) == sum(counted.received)


def test_the_root_of_a_gather_receives_every_block_but_its_own_once() -> None:
    algorithm = lookup("gather", "tree").algorithm
    for size in SIZES:
        counted = traffic(algorithm, size, 0)
        assert counted.rounds == ceil_lg(size)
        assert counted.received[0] == size - 1 and counted.sent[0] == 0


def test_a_barrier_has_the_logarithm_of_ranks_as_rounds() -> None:
    for size in SIZES:
        assert traffic(lookup("barrier", "dissemination").algorithm, size).rounds == ceil_lg(size)


def test_the_hop_to_another_root_costs_the_ordered_tree_one_round_more() -> None:
    algorithm = lookup("reduce", "ordered_tree").algorithm
    for size in range(2, 65):
        assert traffic(algorithm, size, size - 1).rounds == ceil_lg(size) + 1


def test_no_allreduce_sends_less_than_the_ring() -> None:
    for size in SIZES:
        busiest = {
            name: max(traffic(entry.algorithm, size).sent)
            for name, entry in TABLE["allreduce"].items()
        }
        assert busiest["ring"] == min(busiest.values())


def test_bytes_are_counted_where_blocks_are_uneven() -> None:
    # Around a ring every block but the one that stays passes each rank.
    counted = traffic(lookup("reduce_scatter", "ring").algorithm, 3, None, [10, 1, 0])
    assert counted.sent == (1, 10, 11)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 64])
def test_predicted_times_are_the_textbook_formulas(size: int) -> None:
    p, n, a, b, g = size, 1e6, 1e-6, 1e-10, 1e-11

    def predicted(collective: str, name: str, root: int | None = None) -> float:
        algorithm = lookup(collective, name).algorithm
        return seconds(algorithm, p, n, alpha=a, beta=b, gamma=g, root=root)

    ring = 2 * (p - 1) * a + 2 * (p - 1) / p * n * b + (p - 1) / p * n * g
    assert predicted("allreduce", "ring") == pytest.approx(ring)
    tree = 2 * ceil_lg(p) * (a + n * b) + ceil_lg(p) * n * g
    assert predicted("allreduce", "tree") == pytest.approx(tree)
    doubling = (
        ceil_lg(p) * (a + n * b + n * g)
        if not folding(p)
        else (floor(log2(p)) + 2) * (a + n * b) + (floor(log2(p)) + 1) * n * g
    )
    assert predicted("allreduce", "recursive_doubling") == pytest.approx(doubling)
    assert predicted("broadcast", "tree", 0) == pytest.approx(ceil_lg(p) * (a + n * b))
    assert predicted("alltoall", "pairwise") == pytest.approx((p - 1) * (a + n / p * b))
