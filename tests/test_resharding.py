"""Resharding of every pair of layouts, against slices by hand."""

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.dialects.ort_specs import Spec
from rankwise.models.errors import PlacementError
from rankwise.models.placing.exchanges import exchange, gathering
from rankwise.models.placing.moving import move
from rankwise.models.placing.placement import Cut, Factor, Placement, Shape, cut
from rankwise.models.placing.rank_graph import RankGraph
from rankwise.models.placing.resharding import Join, Route, Tree, classes, route

EVEN, UNEVEN = (4, 8, 6), (3, 5, 7)


def layouts(shape: str, elements: str, axes: int) -> list[Placement]:
    tokens = ["R", *(f"S[{m}]" for m in range(axes))]
    rows = itertools.product(tokens, repeat=3)
    texts = ["".join(row) for row in rows if all(row.count(t) < 2 for t in tokens[1:])]
    return [Spec(text, shape, elements).placement() for text in texts]


GRID = layouts("[2,2]", "[0,1,2,3]", 2)
BOTH = [
    Placement((cut(dim, 4),), tuple((device,) for device in order))
    for dim in range(3)
    for order in ((0, 1, 2, 3), (0, 2, 1, 3))
]
"""a dim that is cut along both axes of the grid, either of them first"""
ODD = [
    *layouts("[4]", "[0,1,0,1]", 1),
    *layouts("[2]", "[3,1]", 1),
    Placement((Cut(1, (Factor(2, 1), Factor(None, 2))),), ((0, 3), (1,))),
    Placement((cut(1, 2), cut(0, 3)), ((0,), (1,), (0,), (2,), (3,), (2,))),
    Placement.everywhere([2]),
]


def numbers(sizes: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(sizes), dtype=np.float32).reshape(sizes)


def parts(placement: Placement, whole: np.ndarray) -> dict[int, np.ndarray]:
    return {d: whole[np.ix_(*box)] for d, box in placement.held(whole.shape).items()}


def carried_out(found: Route, given: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Walk the trees with nothing but what the senders hold."""

    def build(tree: Tree) -> np.ndarray:
        if isinstance(tree, Join):
            joined = np.concatenate([build(part) for part in tree.parts], axis=tree.dim)
            return joined if tree.order is None else np.take(joined, tree.order, axis=tree.dim)
        if tree.elements == 0:  # of which a device may have held nothing
            return np.empty([len(row) for row in tree.box], np.float32)
        have = found.before[tree.sender]
        assert all(np.isin(want, row).all() for want, row in zip(tree.box, have, strict=True))
        index = [np.searchsorted(row, want) for want, row in zip(tree.box, have, strict=True)]
        return given[tree.sender][np.ix_(*index)]

    return {device: build(tree) for device, tree in found.made.items()}


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN])
def test_every_pair_of_layouts_on_a_grid_equals_slicing_and_moves_the_least(
    sizes: tuple[int, ...],
) -> None:
    whole = numbers(sizes)
    assert len(GRID) == 13
    for before, after in itertools.product([*GRID, *BOTH], repeat=2):
        found = route(sizes, before, after)
        made = carried_out(found, parts(before, whole))
        for device, wanted in parts(after, whole).items():
            np.testing.assert_array_equal(made[device], wanted)
        assert found.moved == found.least
        heaviest = max(sum(m.sender == d for m in found.moves) for d in range(4))
        assert heaviest <= math.ceil(len(found.moves) / 4) + 2


def test_odd_meshes_too() -> None:
    whole = numbers((6, 8, 4))
    for before, after in itertools.product([*GRID[:5], *ODD], repeat=2):
        found = route(whole.shape, before, after)
        made = carried_out(found, parts(before, whole))
        for device, wanted in parts(after, whole).items():
            np.testing.assert_array_equal(made[device], wanted)
        assert found.moved == found.least


@pytest.mark.parametrize("size", [0, 1, 12])
def test_indices_are_of_one_class_where_the_same_devices_hold_them(size: int) -> None:
    placements = [GRID[5], BOTH[1], *ODD[:2], Placement.everywhere([2])]
    for before, after in itertools.product(placements, repeat=2):
        tables = [each.held((size, size, size)) for each in (before, after)]
        for dim in range(3):
            holders = dict[tuple[bool, ...], list[int]]()
            for k in range(size):
                has = tuple(k in box[dim] for table in tables for box in table.values())
                holders.setdefault(has, []).append(k)
            found = [row.tolist() for row in classes(dim, size, tables)]
            assert found == list(holders.values())


def test_a_dim_of_many_indices_is_not_looked_at_one_by_one() -> None:
    parts_of = Placement((cut(0, 4),), ((0,), (1,), (2,), (3,)))
    start = time.process_time()
    found = route((400_000, 8), parts_of, Placement.everywhere(range(4)))
    assert time.process_time() - start < 1  # a twentieth of that; one by one, several seconds
    assert found.moved == found.least


def test_more_shards_than_elements_leave_some_devices_nothing() -> None:
    thin = Placement((cut(0, 4),), ((0,), (1,), (2,), (3,)))
    found = route((2, 3), Placement.everywhere([0]), thin)
    assert [len(box[0]) for box in found.after.values()] == [1, 1, 0, 0]
    assert found.moved == found.least == 3


def test_holders_take_turns() -> None:
    found = route((4, 6), Placement.everywhere([0, 1]), Placement.everywhere(range(4)))
    assert [(move.sender, move.receiver) for move in found.moves] == [(0, 2), (1, 3)]


def test_what_is_one_collective_is_found() -> None:
    rows, columns = GRID[3], GRID[1]
    spread = Placement((cut(0, 4),), ((0,), (1,), (2,), (3,)))
    across = Placement((cut(1, 4),), ((0,), (1,), (2,), (3,)))
    whole = Placement.everywhere(range(4))
    sizes = (8, 8)
    assert gathering(route(sizes, spread, whole)) == (0, ((0, 1, 2, 3),))
    assert exchange(route(sizes, spread, across)) == (1, 0, ((0, 1, 2, 3),))
    assert gathering(route(sizes, spread, across)) is None
    halves = Placement((cut(0, 2),), ((0, 1), (2, 3)))
    assert gathering(route(sizes, halves, whole)) == (0, ((0, 2), (1, 3)))
    assert gathering(route((4, 8, 6), rows, columns)) is None
    assert exchange(route((3, 7), spread, across)) is None  # the last two hold the same: nothing


def model(
    rank: int, sizes: Shape, before: Placement, after: Placement, fed: tuple[int, ...]
) -> ModelProto:
    """One rank's graph: it is fed its part, and gives its part."""
    out = RankGraph(rank, {"x"})
    have = before.held(fed).get(rank)
    made = move(out, "x", sizes, before, after, TensorProto.FLOAT)
    made = made or out.constant(np.zeros(1, np.float32))
    out.named("Identity", [made], ["y"])
    out.communicate("Barrier", [])  # a graph that does not communicate would be sharded
    inputs = [] if have is None else [helper.make_tensor_value_info("x", 1, [None] * len(fed))]
    graph = helper.make_graph(
        out.nodes, "reshard", inputs, [helper.make_tensor_value_info("y", 1, None)],
        [weight.proto for weight in out.constants.values()],
    )  # fmt: skip
    graph.value_info.extend(out.value_info.values())
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("rankwise", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(
    ranks: int, sizes: Shape, pairs: list[tuple[Placement, Placement]], whole: np.ndarray
) -> list[list[np.ndarray | None]]:
    def answer(comm: Communicator) -> list[np.ndarray | None]:
        made = list[np.ndarray | None]()
        for before, after in pairs:
            text = model(comm.rank, sizes, before, after, whole.shape).SerializeToString()
            given = parts(before, whole).get(comm.rank)
            with InferenceSession(text, comm=comm) as session:
                (y,) = session.run(None, {} if given is None else {"x": given})
            made.append(y if comm.rank in after.members else None)
        return made

    return local.run(ranks, answer)


def check(
    made: list[list[Any]], pairs: list[tuple[Placement, Placement]], whole: np.ndarray
) -> None:
    for k, (_, after) in enumerate(pairs):
        for rank, wanted in parts(after, whole).items():
            np.testing.assert_array_equal(made[rank][k], wanted)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN])
def test_a_sample_runs_on_ranks(sizes: tuple[int, ...]) -> None:
    every = list(itertools.product([*GRID, *BOTH, *(ODD if sizes == EVEN else [])], repeat=2))
    chosen = np.random.default_rng(7).permutation(len(every))[:12]
    pairs = [every[k] for k in chosen]
    check(run(4, sizes, pairs, numbers(sizes)), pairs, numbers(sizes))


def test_devices_that_get_nothing_get_empty_arrays() -> None:
    thin = Placement((cut(0, 4),), ((0,), (1,), (2,), (3,)))
    wide = Placement((cut(1, 4),), ((0,), (1,), (2,), (3,)))
    pairs = [(wide, thin), (Placement.everywhere([0]), thin), (thin, wide)]
    check(run(4, (3, 6), pairs, numbers((3, 6))), pairs, numbers((3, 6)))


def test_sizes_that_are_not_known_are_gathered_and_cut_on_ranks() -> None:
    whole = numbers((7, 6))
    rows = Placement((cut(0, 3),), ((0,), (1,), (2,)))
    columns = Placement((cut(1, 3),), ((0,), (1,), (2,)))
    twice = Placement((cut(1, 6),), ((0,), (1,), (2,), (0,), (1,), (2,)))
    every = Placement.everywhere(range(3))
    one = Placement.everywhere([1])
    within = Placement((Cut(1, (Factor(None, 1), Factor(3, 3))),), ((2,), (0,), (1,)))
    pairs = [(rows, every), (every, rows), (columns, every), (rows, columns), (rows, one),
             (one, rows), (twice, every), (every, twice), (within, every), (every, within),
             (within, columns), (rows, within), (within, one)]  # fmt: skip
    made = run(3, (None, None), pairs, whole)
    check(made, pairs, whole)


def test_two_ways_of_cutting_a_dim_need_its_size() -> None:
    two = Placement((cut(0, 2),), ((0,), (1,)))
    three = Placement((cut(0, 3),), ((0,), (1,), (2,)))
    with pytest.raises(PlacementError, match="expected the size of dim 0"):
        route((None,), two, three)


def test_a_broken_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = numbers(EVEN)
    found = route(EVEN, GRID[1], GRID[5])
    wrong = {d: p[:, ::-1] for d, p in parts(GRID[1], whole).items()}
    made = carried_out(found, wrong)
    wanted = parts(GRID[5], whole)
    assert any(not np.array_equal(made[device], wanted[device]) for device in wanted)
