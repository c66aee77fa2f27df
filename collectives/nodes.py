"""Collectives over several nodes in phases: inside each node through shared memory, if it has any.

The phases are those of algorithms/hierarchical.py, where they are proved and counted. Inside a
node each is a call of its own, by the algorithm that is best there. A tile is a part of the whole
vector here, which changes nothing of what is sent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .algorithms.hierarchical import between
from .blocks import Part, even
from .reduction import Reduction
from .subset import Subset
from .work import together

if TYPE_CHECKING:
    from .engine import Engine


# Bytes of the longest array that is one tile. Counted: a round between nodes takes some 0.2 ms to
# start, and 1 GB/s go through the memory of a node.
TILE = 512 << 10


class Nodes(NamedTuple):
    """What one rank takes part in."""

    ranks: tuple[int, ...]
    """of this node"""
    inside: Engine
    """these ranks"""
    leaders: Engine | None
    """the first rank of every node, if this is one of them"""
    firsts: tuple[int, ...]
    """by rank: the first rank of its node"""

    @classmethod
    def around(cls, engine: Engine, firsts: Sequence[int]) -> Nodes:
        """The groups of the phases. A local call."""
        whole, make = engine._transport, type(engine)
        leading = sorted(set(firsts))
        leaders = make(Subset(whole, leading)) if engine.rank in leading else None
        return cls(
            engine.node_ranks, make(Subset(whole, engine.node_ranks)), leaders, tuple(firsts)
        )

    async def allreduce(self, source: Part, out: Part, op: Reduction) -> None:
        """Reduce to each node's first rank, allreduce between these, broadcast in each node.

        While a tile goes between nodes, the one before is broadcast and the next one reduced.
        """
        count = tiles(out.flat.nbytes)
        where = list(itertools.pairwise(even(out.flat.size, count)))
        flat = source.beside(out).flat
        sources = [Part(flat[a:b]) for a, b in where]
        outs = [Part(out.flat[a:b]) for a, b in where]

        async def inside(tile: int) -> None:
            if tile > 0:
                await self.phase(self.inside, "broadcast", outs[tile - 1], outs[tile - 1], root=0)
            if tile + 1 < count:
                await self.phase(
                    self.inside, "reduce", sources[tile + 1], outs[tile + 1], root=0, op=op
                )

        for tile in range(-1, count + 1):
            calls = [inside(tile)]
            if self.leaders is not None and 0 <= tile < count:
                name = between(self.leaders.size, count)
                part = outs[tile]
                calls.append(
                    self.phase(self.leaders, "allreduce", part, part, op=op, algorithm=name)
                )
            await together(self.inside._transport, calls)

    async def broadcast(self, source: Part, out: Part, root: int) -> None:
        """Broadcast in the root's node, from its first rank to the others', and in their nodes."""
        if root in self.ranks:
            await self.phase(self.inside, "broadcast", source, out, root=self.ranks.index(root))
        if self.leaders is not None:
            leading = sorted(set(self.firsts)).index(self.firsts[root])
            await self.phase(self.leaders, "broadcast", out, out, root=leading, algorithm="tree")
        if root not in self.ranks:
            await self.phase(self.inside, "broadcast", out, out, root=0)

    async def phase(
        self,
        group: Engine,
        collective: str,
        source: Part,
        out: Part,
        *,
        root: int | None = None,
        op: Reduction | None = None,
        algorithm: str = "auto",
    ) -> None:
        """One phase, on the whole vector."""
        await group._memory()
        where = even(out.flat.size, group.size)
        await group._carry(collective, source, out, where, root, op, algorithm)

    def refuse(self, error: BaseException) -> None:
        """Tell the ranks of the node that wait for this one."""
        self.inside._refuse(error)

    def free(self) -> None:
        self.inside.free()


def tiles(nbytes: int) -> int:
    """How many tiles so many bytes are.

    With more of them the first one is sooner reduced and the last one sooner broadcast, and there
    are more rounds between nodes: both cost the same with a number that grows as the square root.
    """
    return max(1, math.ceil(math.sqrt(nbytes / TILE)))
