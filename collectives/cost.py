"""Count what a schedule moves, and the time that it takes in the alpha-beta-gamma model.

alpha: seconds for a message to start; beta: seconds for a byte to move; gamma: seconds for a byte
to be reduced. A round takes as long as its slowest rank; sending and receiving overlap. To load
from a peer costs what it costs to receive, and to lend, once for however many load it, what it
costs to send. Inside a node a message may cost less, and goes beside those that leave it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from .schedule import Algorithm, Copy, Load, Recv, Round, Send, schedule
from .specs import SPECS


class Link(NamedTuple):
    """What messages between some ranks cost: seconds to start one, and for a byte to move."""

    alpha: float
    beta: float


class Traffic(NamedTuple):
    """Rounds of the whole, and blocks or bytes by rank. What is loaded was never sent."""

    rounds: int
    sent: tuple[int, ...]
    received: tuple[int, ...]
    loaded: tuple[int, ...]


def traffic(
    algorithm: Algorithm,
    size: int,
    root: int | None = None,
    block_bytes: Sequence[int] | None = None,
    **options: Any,
) -> Traffic:
    """Count blocks (segments where there are any), or bytes where the sizes of all are given."""
    ranks = schedule(algorithm, size, root, **options)

    def counted(kind: type[Send | Recv | Load]) -> tuple[int, ...]:
        return tuple(
            sum(moved(steps, rank, kind, block_bytes) for steps in rounds)
            for rank, rounds in enumerate(ranks)
        )

    return Traffic(max(map(len, ranks)), counted(Send), counted(Recv), counted(Load))


def moved(
    steps: Round,
    rank: int,
    kind: type[Send | Recv | Load],
    sizes: Sequence[int] | None = None,
) -> int:
    """Blocks, or bytes, that one rank sends, receives or loads in a round; not from itself."""
    blocks = [
        block
        for step in steps
        if isinstance(step, kind) and step.peer != rank
        for block in step.blocks
    ]
    return len(blocks) if sizes is None else sum(sizes[block % len(sizes)] for block in blocks)


def seconds(
    algorithm: Algorithm,
    size: int,
    nbytes: float,
    *,
    alpha: float,
    beta: float,
    gamma: float = 0.0,
    inside: Link | None = None,
    root: int | None = None,
    **options: Any,
) -> float:
    """The predicted time for a vector of so many bytes in `size` equal blocks.

    `inside` is what messages cost between ranks of one node, of those that the option `nodes` has.
    """
    block: float = nbytes / size / options.get("segments", 1)
    ranks = range(size)
    links = [(Link(alpha, beta), [set(ranks)] * size)]
    if inside is not None:
        nodes = options["nodes"]
        near = [{peer for peer in ranks if nodes[peer] == nodes[rank]} for rank in ranks]
        links = [(links[0][0], [set(ranks) - one for one in near]), (inside, near)]
    return sum(
        max(
            max(busy(together, rank, there[rank], block, link) for link, there in links)
            + gamma * block * reduced(together[rank])
            for rank in ranks
        )
        for together in zip(*schedule(algorithm, size, root, **options), strict=True)
    )


def busy(
    together: Sequence[Round], rank: int, peers: Container[int], block: float, link: Link
) -> float:
    """The time that the link to these peers takes of a rank in one round of all."""
    steps = tuple(
        step
        for step in together[rank]
        if not isinstance(step, Copy) and step.peer != rank and step.peer in peers
    )
    sent = moved(steps, rank, Send) + len(lent(together, rank, peers))
    came = moved(steps, rank, Recv) + moved(steps, rank, Load)
    return link.alpha * bool(steps) + link.beta * block * max(sent, came)


def reduced(steps: Round) -> int:
    """The blocks that a rank reduces in a round."""
    return sum(len(step.blocks) for step in steps if isinstance(step, Recv | Load) and step.reduce)


def lent(together: Sequence[Round], rank: int, readers: Container[int]) -> set[int]:
    """The blocks of a rank that these others load in a round."""
    return {
        block
        for reader, steps in enumerate(together)
        if reader in readers
        for step in steps
        if isinstance(step, Load) and step.peer == rank != reader
        for block in step.blocks
    }


def lower_bound(
    collective: str,
    size: int,
    nbytes: float,
    *,
    alpha: float,
    beta: float,
    gamma: float = 0.0,
) -> float:
    """The time that no algorithm comes below where a rank sends and receives one message a round.

    ceil(lg p) alpha + m beta + (p - 1)/p n gamma, gamma where something is reduced. m is the
    least that some rank must move of n bytes: 2 (p - 1)/p n in an allreduce, n in a broadcast or
    reduce, nothing in a barrier, else (p - 1)/p n. n is the whole vector: what a rank holds after
    an allgather or before a reduce_scatter or alltoall. Chan et al., "Collective communication:
    theory, practice, and experience", CCPE 2007; of an allreduce Patarasuk and Yuan, JPDC 2009.
    """
    if size == 1:
        return 0.0
    share = (size - 1) / size
    moved = {"allreduce": 2 * share, "broadcast": 1.0, "reduce": 1.0, "barrier": 0.0}
    reduced = share if SPECS[collective].reduces else 0.0
    return (
        (size - 1).bit_length() * alpha
        + moved.get(collective, share) * nbytes * beta
        + reduced * nbytes * gamma
    )
