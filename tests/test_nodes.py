"""Collectives over several nodes, which are groups of threads here, of any number of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rankwise.collectives import CollectiveError, CollectiveTimeout, Communicator, Patience, local
from rankwise.collectives.algorithms.hierarchical import hierarchical_allreduce
from rankwise.collectives.blocks import even
from rankwise.collectives.cost import moved
from rankwise.collectives.nodes import TILE, tiles
from rankwise.collectives.schedule import Send, schedule
from rankwise.collectives.subset import Subset
from rankwise.collectives.transport import Bytes, Requests, Transport

PLACES = [(0, 0, 0, 1, 1, 2), (0, 1, 2, 0, 1, 0), (1, 0, 0, 1), (0, 1, 2, 3, 4)]


class Placed(Subset):
    """All ranks of a transport, on these nodes; it counts what leaves them."""

    def __init__(self, whole: Transport, nodes: Sequence[int]) -> None:
        super().__init__(whole, range(whole.size))
        self.nodes = nodes
        self.left = 0

    @property
    def node_ranks(self) -> tuple[int, ...]:
        return tuple(q for q in self.ranks if self.nodes[q] == self.nodes[self.rank])

    def isend(self, data: Bytes, peer: int, tag: int) -> Requests:
        self.left += data.nbytes * (self.nodes[peer] != self.nodes[self.rank])
        return super().isend(data, peer, tag)


def values(rank: int, count: int) -> Any:
    return np.random.default_rng(rank).integers(-1000, 1000, count)


@pytest.mark.parametrize("nodes", PLACES)
@pytest.mark.parametrize("nbytes", [0, 8, TILE, 2 * TILE, 5 * TILE + 808])
def test_an_allreduce_is_a_sum_and_sends_what_its_schedule_does(
    nodes: tuple[int, ...], nbytes: int
) -> None:
    size, count = len(nodes), nbytes // 8

    def work(comm: Communicator) -> int:
        transport = Placed(comm._transport, nodes)
        placed, x = Communicator(transport), values(comm.rank, count)
        total = sum(values(rank, count) for rank in range(size))
        placed.allreduce(x[:1], algorithm="hierarchical")  # asks which rank is on which node
        transport.left = 0
        np.testing.assert_array_equal(placed.allreduce(x, algorithm="hierarchical"), total)
        left = transport.left
        np.testing.assert_array_equal(x, values(comm.rank, count))
        work = placed.iallreduce(x, out=x, algorithm="hierarchical")
        np.testing.assert_array_equal(work.wait(), total)
        wide = np.zeros(count + 1, int)
        wide[1:] = values(comm.rank, count)
        placed.allreduce(wide[1:], out=wide[:-1], algorithm="hierarchical")  # they overlap
        np.testing.assert_array_equal(wide[:-1], total)
        return left

    sent, parts = local.run(size, work), tiles(nbytes)
    every_rank = schedule(hierarchical_allreduce, size, nodes=nodes, segments=parts)
    blocks = [b - a for a, b in itertools.pairwise(even(count, size * parts))]
    for rank, rounds in enumerate(every_rank):
        out = [
            tuple(s for s in r if isinstance(s, Send) and nodes[s.peer] != nodes[rank])
            for r in rounds
        ]
        expected = 8 * sum(moved(steps, rank, Send, blocks) for steps in out)
        assert abs(sent[rank] - expected) <= 8 * parts * size, rank  # blocks are cut elsewhere


@pytest.mark.parametrize("silent", [0, 1])
def test_a_rank_that_does_not_come_ends_the_call_on_all_nodes(silent: int) -> None:
    """A leader is one that its node and other nodes wait for; another one only its node."""

    def work(comm: Communicator) -> str:
        placed = Communicator(Placed(comm._transport, (0, 0, 1, 1)))
        placed.allreduce([1], algorithm="hierarchical")
        if comm.rank == silent:
            return ""
        nodes = placed._nodes
        assert nodes is not None
        for group in filter(None, (placed, nodes.inside, nodes.leaders)):
            group._transport.patience = Patience(timeout=0.5)
        with pytest.raises(CollectiveTimeout) as caught:
            placed.allreduce(np.ones(3 * TILE), algorithm="hierarchical")
        with pytest.raises(CollectiveError, match="broken by CollectiveTimeout"):
            placed.barrier()
        return str(caught.value)

    found = local.run(4, work)
    assert all("has waited for rank" in text for rank, text in enumerate(found) if rank != silent)
