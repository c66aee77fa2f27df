"""Between nodes as little as possible: the ranks of a node work together, then their leaders.

`nodes` gives the node of each rank, by any number; () is one node. Nodes may have any number of
ranks, in any order. A phase is an algorithm that several groups of ranks run at the same time,
each on the whole vector. N is the number of nodes, and q the ranks of the largest one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..schedule import Algorithm, Blocks, Recv, Round, Send
from .recursive import rabenseifner_allreduce
from .ring import ring_allreduce
from .tree import tree_broadcast, tree_reduce

Group = tuple[int, ...]


class Tile(NamedTuple):
    """One of so many segments of all blocks; there may be none of this number."""

    number: int
    segments: int


WHOLE = Tile(0, 1)


def hierarchical_allreduce(
    rank: int, size: int, *, nodes: Sequence[int] = (), segments: int = 1
) -> Iterator[Round]:
    """Reduce to each node's first rank, allreduce between these, and broadcast in each node.

    Segment t of all blocks is tile t. While it goes between nodes, the tile before is broadcast
    and the next one reduced, in each node.

    Let r = ceil(lg q), and a the rounds of the allreduce between nodes. There are 2 r + a rounds
    for one tile, and for S > 1 of them 2 r + 2 max(a, r) + (S - 2) max(a, 2 r). What leaves a node
    are the bytes of that allreduce: 2 (N - 1)/N n, but those of rabenseifner_allreduce for one
    tile and N no power of two. A leader sends r n within its node. Where links are the slowest it
    takes 2 r (alpha_inside + beta_inside n/S) + S a alpha + 2 (N - 1)/N n beta.

    Operands are combined in the order of ranks if those of each node follow one another, and tiles
    do not go around a ring.
    """
    groups = by_node(nodes or (0,) * size)
    leaders = [tuple(group[0] for group in groups)]
    across = BETWEEN[between(len(groups), segments)]
    for tile in range(-1, segments + 1):
        before, here, after = (Tile(t, segments) for t in (tile - 1, tile, tile + 1))
        inside = itertools.chain(
            phase(tree_broadcast, groups, rank, size, 0, before),
            phase(tree_reduce, groups, rank, size, 0, after),
        )
        outside = phase(across, leaders, rank, size, None, here)
        for steps in itertools.zip_longest(outside, inside, fillvalue=()):
            yield tuple(itertools.chain(*steps))


BETWEEN: dict[str, Algorithm] = {"ring": ring_allreduce, "rabenseifner": rabenseifner_allreduce}


def between(nodes: int, tiles: int) -> str:
    """The allreduce that the first ranks of so many nodes make of each tile.

    A ring sends less where their number is no power of two. It has more rounds, which count where
    there is so little to send that it is one tile.
    """
    return "ring" if tiles > 1 and nodes & (nodes - 1) else "rabenseifner"


def hierarchical_broadcast(
    rank: int, size: int, root: int, *, nodes: Sequence[int] = ()
) -> Iterator[Round]:
    """Broadcast from the root to one rank of every other node, then in each node.

    ceil(lg N) + ceil(lg q) rounds, at most as many n bytes; N - 1 messages of n between nodes.
    """
    groups = by_node(nodes or (0,) * size, first=root)
    leaders = [tuple(group[0] for group in groups)]
    yield from phase(tree_broadcast, leaders, rank, size, root=0)
    yield from phase(tree_broadcast, groups, rank, size, root=0)


def by_node(nodes: Sequence[int], first: int = 0) -> list[Group]:
    """The ranks of each node, in the order in which nodes and ranks appear from `first` on."""
    groups: dict[int, list[int]] = {}
    for rank in (*range(first, len(nodes)), *range(first)):
        groups.setdefault(nodes[rank], []).append(rank)
    return [tuple(group) for group in groups.values()]


def phase(
    algorithm: Algorithm,
    groups: Sequence[Group],
    rank: int,
    size: int,
    root: int | None = None,
    tile: Tile = WHOLE,
) -> Iterator[Round]:
    """The rounds of the rank in its group, idle ones until the longest group is through."""
    if not 0 <= tile.number < tile.segments:
        return
    roots = () if root is None else (root,)
    left = max(len(list(algorithm(0, len(group), *roots))) for group in groups)
    for group in groups:
        if rank in group:
            for steps in algorithm(group.index(rank), len(group), *roots):
                yield among(steps, group, size, tile)
                left -= 1
    yield from [()] * left


def among(steps: Round, group: Group, size: int, tile: Tile) -> Round:
    """The round of a group on a tile of all blocks: ranks and segments get their numbers there."""
    where = [part * size // len(group) for part in range(len(group) + 1)]

    def numbered(blocks: Blocks) -> Blocks:
        found = (b for part in blocks for b in range(where[part], where[part + 1]))
        return tuple(b * tile.segments + tile.number for b in found)

    return tuple(
        step._replace(peer=group[step.peer], blocks=numbered(step.blocks))
        for step in steps
        if isinstance(step, Send | Recv)
    )
