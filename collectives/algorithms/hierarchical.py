"""Between nodes as little as possible: the ranks of a node work together, then their leaders.

`nodes` gives the node of each rank, by any number; () is one node. Nodes may have any number of
ranks, in any order. A phase is an algorithm that several groups of ranks run at the same time,
each on the whole vector. N is the number of nodes, and q the ranks of the largest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..schedule import Algorithm, Blocks, Recv, Round, Send
from .recursive import rabenseifner_allreduce
from .tree import tree_broadcast, tree_reduce

Group = tuple[int, ...]


def hierarchical_allreduce(rank: int, size: int, *, nodes: Sequence[int] = ()) -> Iterator[Round]:
    """Reduce to each node's first rank, allreduce between these, and broadcast in each node.

    2 ceil(lg q) rounds and those of rabenseifner_allreduce for N; its bytes are all that leaves a
    node, 2 (N - 1)/N n where N is a power of two. Then the leader sends ceil(lg q) n within the
    node. Operands are combined in the order of ranks if those of each node follow one another.
    """
    groups = by_node(nodes or (0,) * size)
    leaders = [tuple(group[0] for group in groups)]
    yield from phase(tree_reduce, groups, rank, size, root=0)
    yield from phase(rabenseifner_allreduce, leaders, rank, size)
    yield from phase(tree_broadcast, groups, rank, size, root=0)


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
) -> Iterator[Round]:
    """The rounds of the rank in its group, idle ones until the longest group is through."""
    roots = () if root is None else (root,)
    left = max(len(list(algorithm(0, len(group), *roots))) for group in groups)
    for group in groups:
        if rank in group:
            for steps in algorithm(group.index(rank), len(group), *roots):
                yield among(steps, group, size)
                left -= 1
    yield from [()] * left


def among(steps: Round, group: Group, size: int) -> Round:
    """The round of a group on the vector of all: ranks and blocks get their numbers there."""
    where = [part * size // len(group) for part in range(len(group) + 1)]

    def numbered(blocks: Blocks) -> Blocks:
        return tuple(b for part in blocks for b in range(where[part], where[part + 1]))

    return tuple(
        step._replace(peer=group[step.peer], blocks=numbered(step.blocks))
        for step in steps
        if isinstance(step, Send | Recv)
    )
