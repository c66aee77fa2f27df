"""Ranks on several hosts: they know where they are, and save the links between."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hosts import answer, program, run

from rankwise.collectives.algorithms.hierarchical import hierarchical_allreduce
from rankwise.collectives.algorithms.ring import ring_allreduce
from rankwise.collectives.cost import moved
from rankwise.collectives.nodes import tiles
from rankwise.collectives.schedule import Algorithm, Send, schedule

# Ranks of each host, and an order of ranks in which those of a host are never neighbours.
CLUSTERS = [((3, 2, 1), (0, 3, 1, 4, 2, 5)), ((2, 2), (0, 2, 1, 3))]


CLUSTER = """
import json, socket, sys
from pathlib import Path
import numpy as np
from mpi4py import MPI
from rankwise.collectives import Communicator

def values(rank):
    return np.random.default_rng(rank).integers(-1000, 1000, 100_003)

def sent():
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())

def check(comm):
    total = sum(values(rank) for rank in range(comm.size))
    for x in (values(comm.rank), values(comm.rank)[:5]):
        found = comm.allreduce(x, algorithm="hierarchical")
        assert np.array_equal(found, total[: x.size]), (comm.rank, x.size)
        assert np.array_equal(comm.allreduce(x), total[: x.size]), (comm.rank, x.size)
    for root in range(comm.size):
        x = values(root) if comm.rank == root else None
        found = comm.broadcast(x, root, algorithm="hierarchical")
        assert np.array_equal(found, values(root)), (comm.rank, root)
    inside = comm._nodes.inside
    assert (inside._shared is not None) == (len(comm.node_ranks) > 1)
    assert inside.rank == 0 or inside._shared.rings[inside.rank].any()  # lent to the first

def counted(comm, algorithm):
    x = np.ones(1 << 20, np.float32)
    comm.allreduce(x, algorithm=algorithm)  # connects
    found = []
    for _ in range(3):  # of which the least: TCP may send something twice
        comm.barrier()
        before = sent()
        comm.barrier()
        comm.allreduce(x, algorithm=algorithm)
        comm.barrier()
        found.append(sent() - before)
    return min(found)

world = Communicator.world()
check(world)
mixed = world.group(json.loads(sys.argv[1]))
check(mixed)
bytes_sent = {name: counted(mixed, name) for name in ("ring", "hierarchical")}
mine = mixed.rank, socket.gethostname(), world.node_ranks, mixed.node_ranks, bytes_sent
rows = MPI.COMM_WORLD.gather(mine)
if world.rank == 0:
    print(json.dumps(rows))
"""


@pytest.mark.usefixtures("hosts")
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("slots", "order"), CLUSTERS)
def test_ranks_know_their_host_and_save_its_link(
    tmp_path: Path, slots: tuple[int, ...], order: tuple[int, ...]
) -> None:
    """Also that hierarchical collectives equal numpy's, which the program checks."""
    command = program(CLUSTER, tmp_path, len(order), json.dumps(order))
    rows = answer(run(["--slots", ",".join(map(str, slots)), "--", *command], tmp_path))
    nodes = [node for node, count in enumerate(slots) for _ in range(count)]
    mixed = [nodes[rank] for rank in order]
    for rank, (position, name, here, here_mixed, _) in enumerate(rows):
        assert (name, order[position]) == (f"host{nodes[rank]}", rank)
        assert here == [q for q in range(len(nodes)) if nodes[q] == nodes[rank]]
        assert here_mixed == [q for q in range(len(nodes)) if mixed[q] == nodes[rank]]
    expected = {
        "ring": leaving(ring_allreduce, mixed),
        "hierarchical": leaving(
            hierarchical_allreduce, mixed, nodes=tuple(mixed), segments=tiles(4 << 20)
        ),
    }
    for rank, (*_, sent) in enumerate(rows):
        for name, nbytes in expected.items():
            least = nbytes[nodes[rank]]
            # Headers, acknowledgements and two barriers come on top.
            assert least <= sent[name] <= 1.05 * least + 20_000, (name, rank)
    assert sum(expected["hierarchical"]) < sum(expected["ring"]) / 2


def leaving(algorithm: Algorithm, node: Sequence[int], **options: Any) -> list[int]:
    """The bytes of an allreduce of 4 MiB that leave each node, as the schedule has them.

    `node` gives the node of each rank.
    """
    size = len(node)
    parts = size * options.get("segments", 1)
    ends = [4 * (part * (1 << 20) // parts) for part in range(parts + 1)]
    sizes = [b - a for a, b in itertools.pairwise(ends)]
    sent = [0] * len(set(node))
    for rank, rounds in enumerate(schedule(algorithm, size, **options)):
        for steps in rounds:
            out = tuple(s for s in steps if isinstance(s, Send) and node[s.peer] != node[rank])
            sent[node[rank]] += moved(out, rank, Send, sizes)
    return sent
