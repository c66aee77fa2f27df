"""Which algorithm `auto` stands for: the user's own table, else what was the fastest elsewhere.

Thresholds are bytes from which an algorithm is the fastest, as measured on 2 cores with 2 and 4
ranks under Open MPI 5.0.11 and MPICH 5.0.2, 2026-11-21 (scripts/results). Others are counted, and
say so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .reduction import Reduction
from .shared import CHUNK
from .table import Entry, lookup
from .tuned import Tuned

# allreduce through shared memory: from where it pays that every rank combines a slice only.
TWO_SHOT_FROM_AT_2_RANKS = 2 << 20
TWO_SHOT_FROM = 512 << 10
# From where it pays to read what lies in the memory of others, a system call for each piece.
SINGLE_COPY_FROM_AT_2_RANKS = 4 << 20
SINGLE_COPY_FROM = 8 << 20
# A function of whole arrays is called p - 1 times by every rank that gets a result.
WHOLE = {"allreduce": "one_shot", "reduce": "direct", "reduce_scatter": "one_shot"}
WHOLE_UP_TO = 512 << 10
# What is only moved: MPI copies a long message once, where it may read the sender's memory.
DIRECT_BELOW = 8 << 20
# allreduce by messages.
RING_FROM_AT_2_RANKS = 16 << 10
RING_FROM = 512 << 10
TREE_FROM = 64 << 10
# allreduce between 2 nodes of 2 ranks each, with links of 1 Gbit/s: hierarchical was the faster
# one up to 64 KiB, rabenseifner at 16 MiB. Where they meet in between is not measured. Where ranks
# are no power of two rabenseifner sends twice as much, and hierarchical took half its time.
RABENSEIFNER_FROM_BETWEEN_NODES = 4 << 20
# An allgather of less is a matter of rounds: p - 1 around a ring, 2 ceil(lg p) in a tree. Counted;
# up to 4 ranks the ring was the faster one for all sizes.
TREE_ALLGATHER_BELOW = 16 << 10
TREE_ALLGATHER_RANKS = 9


class Setting(NamedTuple):
    """What a choice depends on that all calls of a communicator have in common."""

    size: int
    has_one_node: bool
    shares_memory: bool
    table: Tuned | None = None
    reads: bool = False
    """the ranks may read each other's memory, whatever lies in it"""

    def lends(self, dtype: np.dtype[Any]) -> bool:
        """Whether ranks share memory, and an element for each of them is no more than a chunk."""
        return self.shares_memory and dtype.itemsize * self.size <= CHUNK

    def obstacle(
        self,
        collective: str,
        name: str,
        nbytes: int,
        dtype: np.dtype[Any],
        op: Reduction | None,
    ) -> str | None:
        """Why a call cannot go through shared memory by this algorithm; None if it can.

        Longer arrays than a chunk go in pieces.
        """
        if not self.shares_memory:
            return "the ranks share no memory"
        if not self.lends(dtype):
            return f"one element of {dtype} has {dtype.itemsize} B"
        if name == "single_copy" and not self.reads:
            return "the ranks may not read each other's own memory"
        if op is not None and not op.elementwise:
            if not lookup(collective, name).whole:
                return f"{op.name} takes whole arrays, and {name} has parts of them"
            if not 0 < nbytes <= CHUNK:
                return f"{op.name} takes whole arrays, and {name} has {CHUNK} B at a time"
        return None


class Choice(NamedTuple):
    """An algorithm, and why."""

    algorithm: str
    reason: str

    def __str__(self) -> str:
        return f"{self.algorithm}: {self.reason}"


def automatic(
    setting: Setting,
    collective: str,
    nbytes: int,
    dtype: np.dtype[Any],
    op: Reduction | None = None,
) -> Choice:
    """The algorithm for a call; the same on all ranks if all ask with the same."""
    is_free = op is None or op.commutative
    is_elementwise = op is None or op.elementwise
    if setting.table is not None:
        placement = "node" if setting.has_one_node else "nodes"
        name = setting.table.find(collective, nbytes, setting.size, dtype, placement)
        if name is not None and fits(setting, collective, name, nbytes, dtype, op):
            return Choice(name, f"measured here, for {setting.size} ranks from about this size on")
    if collective == "allreduce" and setting.lends(dtype) and is_elementwise:
        from_bytes = SINGLE_COPY_FROM if setting.size > 2 else SINGLE_COPY_FROM_AT_2_RANKS
        if setting.reads and nbytes >= from_bytes:
            text = f"the ranks may read each other's memory, and it is {from_bytes} B or more"
            return Choice("single_copy", text)
        from_bytes = TWO_SHOT_FROM if setting.size > 2 else TWO_SHOT_FROM_AT_2_RANKS
        if nbytes >= from_bytes:
            return Choice("two_shot", f"all ranks share memory, and it is {from_bytes} B or more")
        return Choice("one_shot", f"all ranks share memory, and it is below {from_bytes} B")
    if not is_elementwise and nbytes <= WHOLE_UP_TO:
        name = WHOLE[collective]
        if setting.obstacle(collective, name, nbytes, dtype, op) is None:
            return Choice(name, f"all ranks share memory, and it is at most {WHOLE_UP_TO} B")
    if setting.lends(dtype) and is_elementwise:
        found = by_loads(collective, nbytes)
        if found is not None:
            return found
    if not setting.has_one_node and is_free:
        found = between_nodes(collective, nbytes, setting.size)
        if found is not None:
            return found
    return by_messages(collective, nbytes, setting.size, is_free)


def fits(
    setting: Setting,
    collective: str,
    name: str,
    nbytes: int,
    dtype: np.dtype[Any],
    op: Reduction | None,
) -> bool:
    """Whether the algorithm of a table can do this call."""
    is_free = op is None or op.commutative
    if name == "mpi":
        return is_free
    entry = lookup(collective, name)
    if entry.shared:
        return setting.obstacle(collective, name, nbytes, dtype, op) is None
    return op is None or keeps(entry, op)


def keeps(entry: Entry, op: Reduction) -> bool:
    """Whether an algorithm keeps what an operation needs: the order of ranks, and whole arrays."""
    return (entry.ordered or op.commutative) and (entry.whole or op.elementwise)


def by_loads(collective: str, nbytes: int) -> Choice | None:
    """What is faster through shared memory than by messages."""
    if collective in ("reduce", "reduce_scatter"):
        return Choice("direct", "all ranks share memory, and reduce from where operands lie")
    if nbytes < DIRECT_BELOW:
        return Choice("direct", f"all ranks share memory, and it is below {DIRECT_BELOW} B")
    return None


def between_nodes(collective: str, nbytes: int, size: int) -> Choice | None:
    """What sends least from node to node."""
    if collective == "broadcast":
        return Choice("hierarchical", "ranks are on several nodes")
    if collective != "allreduce":
        return None
    if size & (size - 1):
        return Choice("hierarchical", "ranks are on several nodes, and are no power of two")
    if nbytes >= RABENSEIFNER_FROM_BETWEEN_NODES:
        return Choice("rabenseifner", "ranks are on several nodes, and it is 4 MiB or more")
    return Choice("hierarchical", "ranks are on several nodes, and it is below 4 MiB")


def by_messages(collective: str, nbytes: int, size: int, is_free: bool) -> Choice:
    """What is the fastest without shared memory, in rank order where that matters."""
    match collective:
        case "allreduce":
            ring_from = RING_FROM if size > 2 else RING_FROM_AT_2_RANKS
            if nbytes >= ring_from and is_free:
                return Choice("ring", f"sends least, which counts from {ring_from} B on")
            if nbytes >= TREE_FROM:
                return Choice("tree", f"was the fastest from {TREE_FROM} B on")
            return Choice("recursive_doubling", "has the fewest rounds")
        case "reduce_scatter":
            return Choice("ring", "sends least") if is_free else Choice("tree", "keeps the order")
        case "allgather":
            if nbytes < TREE_ALLGATHER_BELOW and size >= TREE_ALLGATHER_RANKS:
                return Choice("tree", "has the fewest rounds")
            return Choice("ring", "sends least, to neighbours only")
        case "reduce":
            if is_free:
                return Choice("tree", "has the fewest rounds")
            return Choice("ordered_tree", "keeps the order for every root")
        case "alltoall":
            return Choice("pairwise", "sends least")
        case "barrier":
            return Choice("dissemination", "has the fewest rounds")
    return Choice("tree", "has the fewest rounds")
