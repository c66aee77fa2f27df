"""Schedules of one round of loads: how they are laid out, and run in memory that ranks share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from conftest import MpiRun

from rankwise.collectives.algorithms.direct import (
    direct_alltoall,
    direct_broadcast,
    direct_reduce,
    direct_reduce_scatter,
)
from rankwise.collectives.algorithms.ring import ring_allgather
from rankwise.collectives.algorithms.shared import two_shot_allreduce
from rankwise.collectives.blocks import Offsets, even
from rankwise.collectives.loads import Piece, Taken, exchange
from rankwise.collectives.schedule import Algorithm

THREE = (even(7, 3),) * 3  # blocks of 3, 2 and 2


def test_a_broadcast_lends_one_piece_to_all() -> None:
    plan = exchange(direct_broadcast, 1, 0, THREE, 100)
    assert (plan.lenders, plan.lent) == ((0,), 0)
    (tile,) = plan.tiles
    assert tile == (7, (), (Taken(0, 7, ((0, Piece(0, 7, 0)),)),))


def test_a_rank_lends_each_other_one_its_block() -> None:
    plan = exchange(direct_reduce_scatter, 1, None, THREE, 100)
    (tile,) = plan.tiles
    assert tile.lends == (Piece(0, 3, 0), Piece(5, 7, 3)) and plan.lent == 5
    # From rank 0 to rank 2, its own piece where it is.
    pieces = (0, Piece(3, 5, 0)), (1, Piece(3, 5, 0)), (2, Piece(3, 5, 3))
    assert tile.takes == (Taken(3, 5, pieces),)


UNLIKE = tuple(even(length, 6) for length in (9, 20, 4))  # of each rank: 3 blocks, then 3 more
ALL, NOTHING = range(7), range(0)
TILED: list[tuple[Any, ...]] = [
    (direct_alltoall, None, UNLIKE,
     [[2, 3, 4, 5], [0, 1, 2, 3, 8, 9, 10], [0, 1]],  # all but the own of the first 3 blocks
     [range(6, 9), range(11, 20), range(3, 4)]),
    (direct_reduce, 2, THREE, [ALL, ALL, NOTHING], [NOTHING, NOTHING, ALL]),
    (direct_broadcast, 1, THREE, [NOTHING, ALL, NOTHING], [ALL, NOTHING, ALL]),
]  # fmt: skip


@pytest.mark.parametrize("most", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(("algorithm", "root", "where", "lent", "taken"), TILED)
def test_tiles_have_every_element_once(
    algorithm: Algorithm,
    root: int | None,
    where: tuple[Offsets, ...],
    lent: list[Sequence[int]],
    taken: list[range],
    most: int,
) -> None:
    plans = [exchange(algorithm, rank, root, where, most) for rank in range(3)]
    for rank, plan in enumerate(plans):
        assert elements(tile.lends for tile in plan.tiles) == list(lent[rank])
        assert elements(tile.takes for tile in plan.tiles) == list(taken[rank])
        assert all(tile.length <= most + 2 for tile in plan.tiles)  # one more in each piece
        for turn, tile in enumerate(plan.tiles):
            for peer, piece in itertools.chain.from_iterable(take.pieces for take in tile.takes):
                assert peer == rank or piece in plans[peer].tiles[turn].lends


def elements(tiles: Iterable[Sequence[Piece | Taken]]) -> list[int]:
    """The elements of all runs, in order."""
    return sorted(i for tile in tiles for run in tile for i in range(run.start, run.stop))


@pytest.mark.parametrize("algorithm", [two_shot_allreduce, ring_allgather])
def test_more_than_one_round_of_loads_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match="expected one round of loads"):
        exchange(algorithm, 0, None, THREE, 100)


PROGRAM = """
import numpy as np
from rankwise.collectives import Communicator, loads

comm = Communicator.world()
rank, size = comm.rank, comm.size
def operands(count):
    return [(np.arange(count) * 7 + 3 * q) % 1000 for q in range(size)]

def close(comm, make, count):
    values = operands(count)
    x, root = make(values[rank]), size - 1
    total = np.sum(values, 0)
    got = comm.allgather(x, algorithm="direct")
    assert np.array_equal(got, np.concatenate(values))
    got = comm.reduce_scatter(x, algorithm="direct")
    assert np.array_equal(got, np.array_split(total, size)[rank])
    got = comm.reduce(x, root=root, algorithm="direct")
    assert got is None if rank != root else np.array_equal(got, total)
    got = comm.broadcast(x, root, algorithm="direct")
    assert np.array_equal(got, values[root])
    got = comm.gather(x, root, algorithm="direct")
    assert got is None if rank != root else np.array_equal(got, np.concatenate(values))
    got = comm.scatter(x, root, algorithm="direct")
    assert np.array_equal(got, np.array_split(values[root], size)[rank])
    got = comm.alltoall(x, algorithm="direct")
    assert np.array_equal(got, np.concatenate([np.array_split(v, size)[rank] for v in values]))

def lent(values):
    x = comm.empty(values.shape, values.dtype)
    x[...] = values
    return x

tile = loads.TILE // 8
for make in (np.array, lent, lambda v: lent(v) if rank % 2 else v):
    with comm.group(range(size)) as fresh:
        fresh.barrier()
        fresh._shared.rings[rank][:] = 0
        for count in (1, 5, tile - 1, 3 * tile + 11):
            close(fresh, make, count)
        if make is lent:
            assert not fresh._shared.rings[rank].any(), "copied in"
        else:
            assert fresh._shared.rings[0].any()

# What each rank lends is counted once, however many load it.
x = np.zeros(30 * size)
comm.barrier()
before = comm.bytes_sent
comm.allgather(x, counts=[30 * size] * size, algorithm="direct")
assert comm.bytes_sent - before == x.nbytes
before = comm.bytes_sent
comm.reduce_scatter(x, algorithm="direct")
assert comm.bytes_sent - before == (size - 1) * 30 * 8

# Within one array: what is written must not be what others still read.
values = operands(size * tile)
whole = comm.empty(size * tile, int)
whole[...] = np.concatenate([np.roll(np.array_split(values[0], size), 1, 0).ravel()])
mine = whole[(rank - 1) % size * tile:][:tile]
mine[...] = values[rank][:tile]
got = comm.allgather(mine, out=whole, algorithm="direct")
assert np.array_equal(got, np.concatenate([v[:tile] for v in values]))
whole[...] = values[rank]
got = comm.reduce_scatter(whole, out=whole[:tile], algorithm="direct")
assert np.array_equal(got, np.sum(values, 0)[rank * tile:][:tile])

try:
    comm.allgather(x, algorithm="direct") if rank else comm.gather(x, algorithm="direct")
except Exception as error:
    assert type(error).__name__ == "MismatchError" and "gather" in str(error), error
else:
    raise AssertionError("nothing was raised")
close(comm, np.array, 100)
rank or print("well")
"""


@pytest.mark.mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_collective_through_shared_memory(mpirun: MpiRun, ranks: int) -> None:
    done = mpirun(ranks, PROGRAM)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
