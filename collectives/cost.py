"""Count what a schedule moves, and the time that it takes in the alpha-beta-gamma model.

alpha: seconds for a message to start; beta: seconds for a byte to move; gamma: seconds for a byte
to be reduced. A round takes as long as its slowest rank; sending and receiving overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .schedule import Algorithm, Recv, Round, Send, schedule


class Traffic(NamedTuple):
    """Rounds of the whole, and blocks or bytes by rank."""

    rounds: int
    sent: tuple[int, ...]
    received: tuple[int, ...]


def traffic(
    algorithm: Algorithm,
    size: int,
    root: int | None = None,
    block_bytes: Sequence[int] | None = None,
) -> Traffic:
    """Count blocks, or bytes where the sizes of all blocks are given."""
    ranks = schedule(algorithm, size, root)
    return Traffic(
        max(map(len, ranks)),
        tuple(sum(moved(steps, Send, block_bytes) for steps in rounds) for rounds in ranks),
        tuple(sum(moved(steps, Recv, block_bytes) for steps in rounds) for rounds in ranks),
    )


def moved(steps: Round, kind: type[Send | Recv], sizes: Sequence[int] | None = None) -> int:
    """Blocks, or bytes, that one rank sends or receives in a round."""
    blocks = [block for step in steps if isinstance(step, kind) for block in step.blocks]
    return len(blocks) if sizes is None else sum(sizes[block] for block in blocks)


def seconds(
    algorithm: Algorithm,
    size: int,
    nbytes: float,
    *,
    alpha: float,
    beta: float,
    gamma: float = 0.0,
    root: int | None = None,
) -> float:
    """The predicted time for a vector of so many bytes in `size` equal blocks."""
    block = nbytes / size
    return sum(
        max(slowness(steps, block, alpha, beta, gamma) for steps in together)
        for together in zip(*schedule(algorithm, size, root), strict=True)
    )


def slowness(steps: Round, block: float, alpha: float, beta: float, gamma: float) -> float:
    """The time of one rank in one round."""
    sent, received = moved(steps, Send), moved(steps, Recv)
    reducing = tuple(step for step in steps if isinstance(step, Recv) and step.reduce)
    messages = any(isinstance(step, Send | Recv) for step in steps)
    return (
        alpha * messages
        + beta * block * max(sent, received)
        + gamma * block * moved(reducing, Recv)
    )
