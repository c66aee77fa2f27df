"""The algorithms that there are, by collective and name, and which one `auto` takes."""

from __future__ import annotations

from typing import NamedTuple

from .algorithms.dissemination import dissemination_barrier
from .algorithms.pairwise import pairwise_alltoall
from .algorithms.recursive import recursive_doubling_allreduce
from .algorithms.ring import ring_allgather, ring_allreduce, ring_reduce_scatter
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


class Entry(NamedTuple):
    """An algorithm, and whether it combines operands in the order of ranks for every root."""

    algorithm: Algorithm
    ordered: bool = True


TABLE: dict[str, dict[str, Entry]] = {
    "allreduce": {
        "ring": Entry(ring_allreduce, ordered=False),
        "tree": Entry(tree_allreduce),
        "recursive_doubling": Entry(recursive_doubling_allreduce),
    },
    "reduce_scatter": {
        "ring": Entry(ring_reduce_scatter, ordered=False),
        "tree": Entry(tree_reduce_scatter),
    },
    "allgather": {"ring": Entry(ring_allgather), "tree": Entry(tree_allgather)},
    "broadcast": {"tree": Entry(tree_broadcast)},
    "reduce": {
        "tree": Entry(tree_reduce, ordered=False),
        "ordered_tree": Entry(ordered_tree_reduce),
    },
    "scatter": {"tree": Entry(tree_scatter)},
    "gather": {"tree": Entry(tree_gather)},
    "alltoall": {"pairwise": Entry(pairwise_alltoall)},
    "barrier": {"dissemination": Entry(dissemination_barrier)},
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


# Bytes from which an algorithm is the fastest, as measured on 2 cores with 2 and 4 ranks under
# Open MPI 5.0.11 and MPICH 5.0.2 (scripts/results/allreduce_2core_2026-11-21.md).
RING_FROM_AT_2_RANKS = 16 << 10
RING_FROM = 512 << 10
TREE_FROM = 64 << 10
# An allgather of less is a matter of rounds: p - 1 around a ring, 2 ceil(lg p) in a tree. Counted,
# not measured; up to 4 ranks the ring was the faster one for all sizes.
TREE_ALLGATHER_BELOW = 16 << 10
TREE_ALLGATHER_RANKS = 9


def choose(collective: str, nbytes: int, size: int, ordered: bool) -> str:
    """The name that `auto` stands for: the fastest known, in rank order where that matters."""
    match collective:
        case "allreduce":
            ring_from = RING_FROM if size > 2 else RING_FROM_AT_2_RANKS
            if nbytes >= ring_from and not ordered:
                return "ring"
            return "tree" if nbytes >= TREE_FROM else "recursive_doubling"
        case "reduce_scatter":
            return "tree" if ordered else "ring"
        case "allgather":
            few_rounds = nbytes < TREE_ALLGATHER_BELOW and size >= TREE_ALLGATHER_RANKS
            return "tree" if few_rounds else "ring"
        case "reduce":
            return "ordered_tree" if ordered else "tree"
    (only,) = TABLE[collective]
    return only
