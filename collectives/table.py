"""The algorithms that there are, by collective and name."""

from __future__ import annotations

from typing import Literal, NamedTuple

from .algorithms.bruck import bruck_allgather, bruck_alltoall
from .algorithms.chain import chain_broadcast, chain_reduce
from .algorithms.composed import scatter_allgather_broadcast
from .algorithms.direct import (
    direct_allgather,
    direct_alltoall,
    direct_broadcast,
    direct_gather,
    direct_reduce,
    direct_reduce_scatter,
    direct_scatter,
)
from .algorithms.dissemination import dissemination_barrier
from .algorithms.hierarchical import hierarchical_allreduce, hierarchical_broadcast
from .algorithms.knomial import (
    knomial_allreduce,
    knomial_broadcast,
    knomial_gather,
    knomial_reduce,
    knomial_scatter,
)
from .algorithms.linear import (
    driver_allreduce,
    linear_broadcast,
    linear_gather,
    linear_reduce,
    linear_scatter,
    naive_allreduce,
)
from .algorithms.pairwise import pairwise_alltoall
from .algorithms.recursive import (
    rabenseifner_allreduce,
    recursive_doubling_allgather,
    recursive_doubling_allreduce,
    recursive_halving_reduce_scatter,
)
from .algorithms.ring import (
    ring_allgather,
    ring_allreduce,
    ring_reduce_scatter,
    segmented_ring_allreduce,
    segmented_ring_reduce_scatter,
)
from .algorithms.shared import one_shot_allreduce, single_copy_allreduce, two_shot_allreduce
from .algorithms.tree import (
    ordered_tree_reduce,
    tree_allgather,
    tree_allreduce,
    tree_broadcast,
    tree_gather,
    tree_reduce,
    tree_reduce_scatter,
    tree_scatter,
)
from .schedule import Algorithm

Option = Literal["segments", "nodes"]


class Entry(NamedTuple):
    """An algorithm, what it keeps, what it needs and what it takes.

    `ordered`: it combines operands in the order of ranks for every root. `whole`: it combines
    nothing smaller than the whole vector, as functions of whole arrays must. `shared`: the ranks
    share memory. `equal`: all blocks have one length. `takes`: its options (schedule.py).
    """

    algorithm: Algorithm
    ordered: bool = True
    whole: bool = True
    shared: bool = False
    equal: bool = False
    takes: tuple[Option, ...] = ()


SEGMENTS: tuple[Option, ...] = ("segments",)
NODES: tuple[Option, ...] = ("nodes",)

TABLE: dict[str, dict[str, Entry]] = {
    "allreduce": {
        "ring": Entry(ring_allreduce, ordered=False, whole=False),
        "segmented_ring": Entry(
            segmented_ring_allreduce, ordered=False, whole=False, takes=SEGMENTS
        ),
        "tree": Entry(tree_allreduce),
        "knomial": Entry(knomial_allreduce),
        "recursive_doubling": Entry(recursive_doubling_allreduce),
        "rabenseifner": Entry(rabenseifner_allreduce, whole=False),
        "hierarchical": Entry(
            hierarchical_allreduce, ordered=False, whole=False, takes=(*NODES, *SEGMENTS)
        ),
        "naive": Entry(naive_allreduce),
        "driver": Entry(driver_allreduce),
        "one_shot": Entry(one_shot_allreduce, shared=True),
        "two_shot": Entry(two_shot_allreduce, whole=False, shared=True),
        "single_copy": Entry(single_copy_allreduce, whole=False, shared=True),
    },
    "reduce_scatter": {
        "ring": Entry(ring_reduce_scatter, ordered=False, whole=False),
        "segmented_ring": Entry(
            segmented_ring_reduce_scatter, ordered=False, whole=False, takes=SEGMENTS
        ),
        "tree": Entry(tree_reduce_scatter),
        "recursive_halving": Entry(recursive_halving_reduce_scatter, ordered=False, whole=False),
        "direct": Entry(direct_reduce_scatter, whole=False, shared=True),
        "one_shot": Entry(one_shot_allreduce, shared=True),
    },
    "allgather": {
        "ring": Entry(ring_allgather),
        "tree": Entry(tree_allgather),
        "bruck": Entry(bruck_allgather),
        "recursive_doubling": Entry(recursive_doubling_allgather),
        "direct": Entry(direct_allgather, shared=True),
    },
    "broadcast": {
        "tree": Entry(tree_broadcast),
        "knomial": Entry(knomial_broadcast),
        "chain": Entry(chain_broadcast, takes=SEGMENTS),
        "scatter_allgather": Entry(scatter_allgather_broadcast),
        "hierarchical": Entry(hierarchical_broadcast, takes=NODES),
        "linear": Entry(linear_broadcast),
        "direct": Entry(direct_broadcast, shared=True),
    },
    "reduce": {
        "tree": Entry(tree_reduce, ordered=False),
        "ordered_tree": Entry(ordered_tree_reduce),
        "knomial": Entry(knomial_reduce, ordered=False),
        "chain": Entry(chain_reduce, whole=False, takes=SEGMENTS),
        "linear": Entry(linear_reduce),
        "direct": Entry(direct_reduce, shared=True),
    },
    "scatter": {
        "tree": Entry(tree_scatter),
        "knomial": Entry(knomial_scatter),
        "linear": Entry(linear_scatter),
        "direct": Entry(direct_scatter, shared=True),
    },
    "gather": {
        "tree": Entry(tree_gather),
        "knomial": Entry(knomial_gather),
        "linear": Entry(linear_gather),
        "direct": Entry(direct_gather, shared=True),
    },
    "alltoall": {
        "pairwise": Entry(pairwise_alltoall),
        "bruck": Entry(bruck_alltoall, equal=True),
        "direct": Entry(direct_alltoall, shared=True),
    },
    "barrier": {
        "dissemination": Entry(dissemination_barrier),
        "direct": Entry(direct_allgather, shared=True),
    },
}

SPECIAL = ("auto", "mpi")  # names that every collective knows beside those of its table


def lookup(collective: str, name: str) -> Entry:
    """Find an algorithm; ValueError with the known names where there is none."""
    if collective not in TABLE:
        raise ValueError(f"expected a collective of {', '.join(TABLE)}, got {collective!r}")
    entries = TABLE[collective]
    if name not in entries:
        known = ", ".join((*entries, *SPECIAL))
        raise ValueError(f"expected an algorithm of {collective} ({known}), got {name!r}")
    return entries[name]


SEGMENT = 128 << 10  # bytes of a segment, where an algorithm cuts blocks; counted, not measured
MOST_SEGMENTS = 64


def segments(nbytes: int, size: int) -> int:
    """The segments of each of `size` blocks that have so many bytes together."""
    return min(max(1, nbytes // (size * SEGMENT)), MOST_SEGMENTS)
