"""Every algorithm is proved for 1 to 64 ranks, and does what its docstring says that it costs."""

import itertools
from collections.abc import Callable
from math import ceil, floor, log2
from typing import Any

import pytest

from rankwise.collectives import ScheduleError
from rankwise.collectives.cost import Link, seconds, traffic
from rankwise.collectives.schedule import Load, Recv, Send, schedule
from rankwise.collectives.simulate import prove
from rankwise.collectives.specs import SPECS
from rankwise.collectives.table import TABLE, Entry, lookup

SIZES = range(1, 65)
NAMED = [(collective, name) for collective, names in TABLE.items() for name in names]


def roots(collective: str, size: int) -> list[int]:
    """All of up to 8; else the first, the second, a middle one and the last."""
    if SPECS[collective].rooted and size <= 8:
        return list(range(size))
    return sorted({0, 1 % size, size // 2, size - 1}) if SPECS[collective].rooted else [0]


@pytest.mark.parametrize(("collective", "name"), NAMED)
def test_it_is_right_for_1_to_64_ranks(collective: str, name: str) -> None:
    entry = lookup(collective, name)
    ordered = entry.ordered and SPECS[collective].reduces
    for size in SIZES:
        for root in roots(collective, size):
            for options in choices(entry, size):
                prove(collective, entry.algorithm, size, root, ordered=ordered, **options)


def choices(entry: Entry, size: int) -> list[dict[str, Any]]:
    """Values of all options; nodes alone, in turn, and of 1, 2, 3, ... ranks each."""
    found: list[dict[str, Any]] = [{}]
    if "nodes" in entry.takes:
        growing = tuple(int((8 * rank + 1) ** 0.5 - 1) // 2 for rank in range(size))
        in_turn = tuple(rank % 3 for rank in range(size))
        found += [{"nodes": nodes} for nodes in (growing, in_turn, tuple(range(size)))]
    if "segments" in entry.takes and size <= 12:
        found += [given | {"segments": segments} for given in found for segments in (2, 3)]
    return found


@pytest.mark.parametrize(
    ("collective", "name"), [pair for pair in NAMED if SPECS[pair[0]].reduces]
)
def test_those_for_whole_arrays_reduce_nothing_smaller(collective: str, name: str) -> None:
    entry = lookup(collective, name)
    root = 0 if SPECS[collective].rooted else None
    reduced = {
        tuple(block % 5 for block in step.blocks)
        for steps in itertools.chain(*schedule(entry.algorithm, 5, root, **choices(entry, 5)[-1]))
        for step in steps
        if isinstance(step, Recv | Load) and step.reduce
    }
    assert (reduced == {(0, 1, 2, 3, 4)}) == entry.whole


@pytest.mark.parametrize("radix", [2, 3, 5, 8])
@pytest.mark.parametrize("collective", ["broadcast", "reduce", "scatter", "gather"])
def test_trees_have_any_radix(collective: str, radix: int) -> None:
    algorithm = lookup(collective, "knomial").algorithm
    for size in range(1, 28):
        for root in range(size):
            prove(collective, algorithm, size, root, radix=radix)


def test_a_hierarchy_keeps_the_order_of_ranks_where_those_of_a_node_are_neighbours() -> None:
    algorithm = lookup("allreduce", "hierarchical").algorithm
    prove("allreduce", algorithm, 9, ordered=True, nodes=(7, 7, 7, 7, 0, 3, 3, 1, 1))
    with pytest.raises(ScheduleError, match="must end as"):
        prove("allreduce", algorithm, 4, ordered=True, nodes=(0, 1, 0, 1))


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
@pytest.mark.parametrize("per_node", [1, 2, 4, 6])
def test_between_nodes_a_hierarchy_sends_what_an_allreduce_of_nodes_sends(
    nodes: int, per_node: int
) -> None:
    p = nodes * per_node
    where = tuple(rank // per_node for rank in range(p))
    for collective, left in (("allreduce", 2 * (nodes - 1) * p), ("broadcast", (nodes - 1) * p)):
        algorithm = lookup(collective, "hierarchical").algorithm
        root = 0 if SPECS[collective].rooted else None
        ranks = schedule(algorithm, p, root, nodes=where)
        between = sum(
            len(step.blocks)
            for rank, rounds in enumerate(ranks)
            for step in itertools.chain(*rounds)
            if isinstance(step, Send) and where[step.peer] != where[rank]
        )
        assert between == left
        counted = traffic(algorithm, p, root, nodes=where)
        inside, across = ceil_lg(per_node), ceil_lg(nodes)
        if collective == "allreduce":
            assert counted.rounds == 2 * inside + 2 * across
            assert counted.sent[0] == p * inside + 2 * (nodes - 1) * per_node
        else:
            assert counted.rounds == inside + across
            assert counted.sent[0] == p * (inside + across)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("per_node", [1, 2, 3])
@pytest.mark.parametrize("tiles", [2, 3, 8])
def test_tiles_of_a_hierarchy_overlap_and_send_no_byte_more(
    nodes: int, per_node: int, tiles: int
) -> None:
    """Rounds and bytes are those of the docstring, and so is the time where links are slow."""
    p = nodes * per_node
    where = tuple(rank // per_node for rank in range(p))
    algorithm = lookup("allreduce", "hierarchical").algorithm
    inside = ceil_lg(per_node)
    is_power = nodes & (nodes - 1) == 0
    across = 2 * ceil_lg(nodes) if is_power else 2 * (nodes - 1)
    both = max(across, 2 * inside)
    counted = traffic(algorithm, p, nodes=where, segments=tiles)
    assert counted.rounds == 2 * inside + 2 * max(across, inside) + (tiles - 2) * both
    assert counted.sent[0] == tiles * (p * inside + 2 * (nodes - 1) * per_node)
    if nodes == 1:
        return
    n, alpha, beta, near = 1e6 * p * tiles, 1e-4, 1e-8, Link(1e-7, 1e-12)
    link = tiles * across * alpha + 2 * (nodes - 1) / nodes * n * beta
    ends = 2 * inside * (near.alpha + near.beta * n / tiles)
    options = {"nodes": where, "inside": near, "alpha": alpha, "beta": beta}
    took = seconds(algorithm, p, n, segments=tiles, **options)
    rest = (tiles - 1) * max(0, 2 * inside - across) + 2 * max(0, inside - across)
    if not rest:  # no round inside is alone
        assert took == pytest.approx(ends + link)
    assert took <= seconds(algorithm, p, n, **options) + tiles * across * alpha


def test_four_ranks_with_four_values_send_48_naively_24_by_a_driver_and_24_in_a_ring() -> None:
    def values(name: str) -> int:
        return sum(traffic(lookup("allreduce", name).algorithm, 4).sent)

    assert (values("naive"), values("driver"), values("ring")) == (48, 24, 24)


@pytest.mark.parametrize("size", [2, 3, 8, 64])
@pytest.mark.parametrize("segments", [1, 3])
def test_segments_add_rounds_and_no_bytes(size: int, segments: int) -> None:
    for collective, name, rounds in (
        ("allreduce", "segmented_ring", 2 * (size - 1) * segments),
        ("reduce_scatter", "segmented_ring", (size - 1) * segments),
        ("broadcast", "chain", size * segments + size - 2),
        ("reduce", "chain", size * segments + size - 2),
    ):
        algorithm = lookup(collective, name).algorithm
        root = 0 if SPECS[collective].rooted else None
        counted = traffic(algorithm, size, root, segments=segments)
        whole = traffic(algorithm, size, root)
        assert counted.rounds == rounds
        assert counted.sent == tuple(segments * sent for sent in whole.sent)


def test_a_chain_that_ends_in_the_middle_is_as_long_as_its_longer_arm() -> None:
    algorithm = lookup("reduce", "chain").algorithm
    assert traffic(algorithm, 9, 3, segments=2).rounds == 18 + 5 - 1
    assert traffic(algorithm, 9, 8, segments=2).rounds == 18 + 8 - 1


def test_what_is_loaded_is_counted_apart() -> None:
    for size in SIZES[::9]:
        one = traffic(lookup("allreduce", "one_shot").algorithm, size)
        assert (one.rounds, set(one.sent), set(one.loaded)) == (2, {0}, {(size - 1) * size})
        two = traffic(lookup("allreduce", "two_shot").algorithm, size)
        assert (two.rounds, set(two.sent), set(two.loaded)) == (3, {0}, {2 * (size - 1)})
        single = traffic(lookup("allreduce", "single_copy").algorithm, size)
        assert (single.rounds, set(single.sent)) == (2, {0})
        assert set(single.loaded) == {2 * (size - 1)}


def ceil_lg(p: int) -> int:
    return ceil(log2(p))


def folding(p: int) -> bool:
    return p & (p - 1) != 0


def largest_part(p: int) -> int:
    """The ranks below the busiest child of a binomial tree's root, itself among them."""
    h = 2 ** (ceil_lg(p) - 1)
    return int(max(p - h, h / 2))


def half(p: int) -> int:
    """The largest power of two that is not above p."""
    return 2 ** floor(log2(p))


def prefixes(p: int) -> int:
    """The folded ones among the first 1, 2, 4, ... below half(p)."""
    return sum(min(2**j, p - half(p)) for j in range(floor(log2(p))))


def ceil_log(k: int, p: int) -> int:
    return next(n for n in range(p) if k**n >= p)


def knomial_children(p: int) -> int:
    """The children of the root of a tree with radix 4."""
    levels = ceil_log(4, p)
    return 3 * (levels - 1) + ceil(p / 4 ** (levels - 1)) - 1 if levels else 0


def largest_knomial_part(p: int) -> int:
    """The ranks below the busiest child of the root of a tree with radix 4."""
    levels = ceil_log(4, p)
    h = 4 ** (levels - 1)
    return int(max(min(h, p - h), h / 4)) if p > 1 else 0


# (rounds, blocks that the busiest rank sends) of p ranks, as in the docstrings.
FORMS: dict[tuple[str, str], Callable[[int], tuple[int, int]]] = {
    ("allreduce", "ring"): lambda p: (2 * (p - 1), 2 * (p - 1)),
    ("allreduce", "tree"): lambda p: (2 * ceil_lg(p), p * ceil_lg(p)),
    ("allreduce", "recursive_doubling"): lambda p: (
        floor(log2(p)) + 2 * folding(p),
        p * (floor(log2(p)) + folding(p)),
    ),
    ("allreduce", "segmented_ring"): lambda p: (2 * (p - 1), 2 * (p - 1)),
    ("allreduce", "knomial"): lambda p: (2 * ceil_log(4, p), p * knomial_children(p)),
    ("allreduce", "rabenseifner"): lambda p: (
        2 * floor(log2(p)) + 2 * folding(p),
        2 * p + half(p) - 3 + prefixes(p) if folding(p) else 2 * (p - 1),
    ),
    ("allreduce", "naive"): lambda p: (2, p * (p - 1)),
    ("allreduce", "driver"): lambda p: (2, p * (p - 1)),
    ("reduce_scatter", "segmented_ring"): lambda p: (p - 1, p - 1),
    ("reduce_scatter", "recursive_halving"): lambda p: (
        floor(log2(p)) + 2 * folding(p),
        p if folding(p) else p - 1,
    ),
    ("reduce_scatter", "ring"): lambda p: (p - 1, p - 1),
    ("reduce_scatter", "tree"): lambda p: (2 * ceil_lg(p), (p > 1) * (p - 1 + largest_part(p))),
    ("allgather", "ring"): lambda p: (p - 1, p - 1),
    ("allgather", "tree"): lambda p: (2 * ceil_lg(p), p * ceil_lg(p)),
    ("allgather", "bruck"): lambda p: (ceil_lg(p), p - 1),
    ("allgather", "recursive_doubling"): lambda p: (
        floor(log2(p)) + 2 * folding(p),
        half(p) - 1 + prefixes(p) + p - 1 if folding(p) else p - 1,
    ),
    ("broadcast", "linear"): lambda p: (1, p * (p - 1)),
    ("broadcast", "knomial"): lambda p: (ceil_log(4, p), p * knomial_children(p)),
    ("broadcast", "chain"): lambda p: ((p > 1) * (2 * p - 2), p * (p > 1)),
    ("broadcast", "scatter_allgather"): lambda p: (ceil_lg(p) + p - 1, 2 * (p - 1)),
    ("reduce", "linear"): lambda p: (1, p * (p > 1)),
    ("reduce", "knomial"): lambda p: (ceil_log(4, p), p * (p > 1)),
    ("reduce", "chain"): lambda p: ((p > 1) * (2 * p - 2), p * (p > 1)),
    ("scatter", "linear"): lambda p: (1, p - 1),
    ("scatter", "knomial"): lambda p: (ceil_log(4, p), p - 1),
    ("gather", "linear"): lambda p: (1, int(p > 1)),
    ("gather", "knomial"): lambda p: (ceil_log(4, p), largest_knomial_part(p)),
    ("alltoall", "bruck"): lambda p: (ceil_lg(p) + 1, sum(i.bit_count() for i in range(p))),
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
            if not entry.shared
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
