"""Run a schedule of all ranks on values that remember what they are made of, and judge the end.

The values are those of specs.py: sequences of (rank, block). So a simulation proves an algorithm
for one size and root; nothing is left to the numbers that a test happens to choose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from .errors import ScheduleError
from .grid import grid
from .schedule import Algorithm, Blocks, Copy, Load, Recv, Round, Send, Side, schedule
from .specs import SPECS, Spec, Value

State = list[dict[int, Value | None]]  # of every rank, by block
Taken = list[Value | None]
Wire = dict[tuple[int, int], deque[tuple[Blocks, Taken]]]


def prove(
    collective: str,
    algorithm: Algorithm,
    size: int,
    root: int = 0,
    *,
    ordered: bool = False,
    **options: Any,
) -> None:
    """Raise ScheduleError unless the algorithm is right for this size and root.

    `ordered` demands that operands are combined in the order of ranks; without it any order will
    do. The message says what went wrong first, and shows it in the grid.
    """
    spec = SPECS[collective].segmented(options.get("segments", 1))
    ranks = schedule(algorithm, size, root if spec.rooted else None, **options)
    state = simulate(spec, ranks, root)
    for rank, blocks in enumerate(state):
        for block in range(spec.copies * size):
            got, expected = blocks.get(block), spec.after(rank, block, size, root)
            if expected is None or got == expected:
                continue
            if got is not None and not ordered and sorted(got) == list(expected):
                continue
            raise failure(
                ranks, len(ranks[rank]) - 1, rank,
                f"block {block} must end as {show(expected)}, got {show(got)}",
            )  # fmt: skip


def simulate(spec: Spec, ranks: Sequence[Sequence[Round]], root: int = 0) -> State:
    """The values of all blocks of all ranks at the end: state[rank][block].

    Spare blocks are there once they have been written.
    """
    size = len(ranks)
    lengths = [len(steps) for steps in ranks]
    if len(set(lengths)) > 1:
        raise ScheduleError(f"expected as many rounds on every rank, got {lengths} by rank")
    state: State = [
        {block: spec.before(rank, block, size, root) for block in range(spec.copies * size)}
        for rank in range(size)
    ]
    for k, steps in enumerate(zip(*ranks, strict=True)):
        try:
            play(state, steps)
        except Fault as fault:
            raise failure(ranks, k, fault.rank, fault.sentence) from None
    return state


class Fault(Exception):  # noqa: N818 - internal to this module, always turned into ScheduleError
    """A rule of schedules broken by a rank in the round that is played."""

    def __init__(self, rank: int, sentence: str) -> None:
        super().__init__(sentence)
        self.rank = rank
        self.sentence = sentence


def play(state: State, steps: Sequence[Round]) -> None:
    """Play one round of all ranks: what is sent and copied is taken first, then stored."""
    wire: Wire = {}
    copies: list[tuple[int, Blocks, Taken]] = []
    loads: dict[tuple[int, int], Taken] = {}  # by rank and place in its round
    check_loading(steps)
    for rank, mine in enumerate(steps):
        check_overwriting(rank, mine)
        for k, step in enumerate(mine):
            if isinstance(step, Send):
                taken = take(state, rank, step.blocks, f"sends to rank {step.peer}")
                wire.setdefault((rank, step.peer), deque()).append((step.blocks, taken))
            elif isinstance(step, Copy):
                copies.append((rank, step.dest, take(state, rank, step.source, "copies")))
            elif isinstance(step, Load):
                loads[rank, k] = take(state, step.peer, step.blocks, f"lends rank {rank}")
    for rank, blocks, values in copies:
        store(state, rank, blocks, values)
    for rank, mine in enumerate(steps):
        for k, step in enumerate(mine):
            if isinstance(step, Recv):
                land(state, rank, step.blocks, matched(rank, step, wire), step.reduce)
            elif isinstance(step, Load):
                land(state, rank, step.dest, loads[rank, k], step.reduce)
    for (source, dest), messages in wire.items():
        if messages:
            raise Fault(source, f"sends {messages[0][0]} to rank {dest}, which expects nothing")


def check_overwriting(rank: int, steps: Round) -> None:
    """A block that leaves in a round must not be overwritten in it, nor any block twice."""
    leaving: set[int] = set()
    written: list[int] = []
    for step in steps:
        if isinstance(step, Send):
            leaving.update(step.blocks)
        elif isinstance(step, Copy):
            leaving.update(step.source)
            written += step.dest
        elif step.reduce is None:
            written += step.dest if isinstance(step, Load) else step.blocks
    if not leaving.isdisjoint(written):
        both = sorted(leaving.intersection(written))
        raise Fault(rank, f"overwrites blocks {both} in the round in which they leave")
    if len(set(written)) < len(written):
        raise Fault(rank, f"writes a block twice in one round: {written}")


def check_loading(steps: Sequence[Round]) -> None:
    """A block that somebody loads must not be written in that round, not even reduced into."""
    lent: dict[int, dict[int, int]] = {}  # by rank and block: one who loads it
    for rank, mine in enumerate(steps):
        for step in mine:
            if isinstance(step, Load):
                lent.setdefault(step.peer, {}).update(dict.fromkeys(step.blocks, rank))
    for rank, blocks in lent.items():
        for step in steps[rank]:
            if isinstance(step, Send):
                continue
            for block in step.blocks if isinstance(step, Recv) else step.dest:
                if block in blocks:
                    sentence = f"in the round in which rank {blocks[block]} loads it"
                    raise Fault(rank, f"writes block {block} {sentence}")


def take(state: State, rank: int, blocks: Blocks, verb: str) -> Taken:
    """The values of blocks, all of which must hold something."""
    values = [state[rank].get(block) for block in blocks]
    if None in values:
        raise Fault(rank, f"{verb} block {blocks[values.index(None)]}, which holds nothing yet")
    return values


def store(state: State, rank: int, blocks: Blocks, values: Sequence[Value | None]) -> None:
    """Overwrite blocks."""
    if len(blocks) != len(values):
        raise Fault(rank, f"expects blocks {blocks}, but {len(values)} blocks come")
    for block, value in zip(blocks, values, strict=True):
        state[rank][block] = value


def matched(rank: int, step: Recv, wire: Wire) -> Taken:
    """What a receive gets: the oldest message of its peer."""
    messages = wire.get((step.peer, rank))
    if not messages:
        raise Fault(rank, f"expects blocks {step.blocks} of rank {step.peer}, which sends nothing")
    sent, values = messages.popleft()
    if len(sent) != len(step.blocks):
        raise Fault(rank, f"expects blocks {step.blocks}, but rank {step.peer} sends {sent}")
    return values


def land(state: State, rank: int, blocks: Blocks, values: Taken, side: Side | None) -> None:
    """Store what came, or reduce it into what is there."""
    if side is not None and len(blocks) == len(values):
        here = state[rank]
        values = [
            combine(rank, block, here.get(block), value, side)
            for block, value in zip(blocks, values, strict=True)
        ]
    store(state, rank, blocks, values)


def combine(rank: int, block: int, here: Value | None, came: Value | None, side: Side) -> Value:
    """One reduction: two values of one element that share no operand become one."""
    assert came is not None  # what is sent holds something
    if here is None:
        raise Fault(rank, f"reduces into block {block}, which holds nothing yet")
    if here[0][1] != came[0][1]:
        raise Fault(rank, f"reduces {show(came)} into block {block}, which holds {show(here)}")
    few, many = (came, here) if len(came) < len(here) else (here, came)
    if not set(few).isdisjoint(many):
        raise Fault(rank, f"reduces {show(came)} into block {block} a second time: {show(here)}")
    return came + here if side == "left" else here + came


def show(value: Value | None) -> str:
    """A value in words: which block of which ranks."""
    if value is None:
        return "nothing"
    ranks = ", ".join(str(rank) for rank, _ in value)
    return f"block {value[0][1]} of rank{'s' if len(value) > 1 else ''} {ranks}"


def failure(ranks: Sequence[Sequence[Round]], k: int, rank: int, sentence: str) -> ScheduleError:
    """The error with its picture: the rounds around the failing one, and the ranks around it."""
    if k < 0:
        return ScheduleError(f"rank {rank}: {sentence}")
    window = range(max(0, k - 2), min(len(ranks[rank]), k + 3))
    return ScheduleError(
        f"round {k}, rank {rank}: {sentence}\n\n" + grid(ranks, mark=(k, rank), window=window)
    )
