"""Plans: which ranks make which calls, when each begins and waits, and what they must answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from layouts import Like, Place
from random_cases import (
    FROM_ROOT,
    NOWHERE,
    OPS,
    REDUCING,
    ROOTED,
    TO_ROOT,
    WITH_DIM,
    Array,
    Case,
    Letter,
    Post,
    lengths,
    odd_one,
    operands,
)
from random_oracle import compare, deliver, expected, faults, is_odd, mistakes
from rank_calls import WAITS, Answer, Call
from rank_messages import Exchange, Receiving, Sending
from rank_worker import Job, State


@dataclass(frozen=True)
class Plan:
    """Groups of ranks that make the same calls at the same time; () is the world.

    `waits` has for each rank, and each call, after how many calls it is waited for: 0 is a call
    that blocks. Of calls for which a rank waits at the same time it takes the last one first if
    `backwards`. `splits` and `checked` are those of a Job.
    """

    cases: tuple[Case | Post, ...]
    groups: tuple[tuple[int, ...], ...] = ()
    waits: tuple[tuple[int, ...], ...] = ()
    backwards: bool = False
    splits: bool = False
    checked: bool = False

    def jobs(self, ranks: int) -> list[Job]:
        """What every rank is told."""
        jobs = []
        for rank in range(ranks):
            color = next((i for i, group in enumerate(self.groups) if rank in group), None)
            members = () if color is None else self.groups[color]
            among = members or (() if self.groups else tuple(range(ranks)))
            calls = self.calls(among.index(rank), len(among)) if among else ()
            turns = self.turns(rank) if among else ()
            jobs.append(Job(calls, turns, members, color, self.splits, self.checked))
        return jobs

    def calls(self, rank: int, size: int) -> tuple[Call | Exchange, ...]:
        return tuple(
            exchange(case, rank, size) if isinstance(case, Post) else call(case, rank, size)
            for case in self.cases
        )

    def turns(self, rank: int) -> tuple[int, ...]:
        """The numbers of calls as a Job has them."""
        most = len(self.cases)
        due: list[list[int]] = [[] for _ in range(most)]
        for number in range(most):
            wait = self.wait(rank, number)
            if wait:
                due[min(number + wait, most) - 1].append(number)
        turns: list[int] = []
        for number in range(most):
            turns += [number, *due[number][:: -1 if self.backwards else 1]]
        return tuple(turns)

    def wait(self, rank: int, number: int) -> int:
        """After how many calls a rank waits for one.

        MPI's own call that blocks does not match the one that does not.
        """
        case = self.cases[number]
        is_native = isinstance(case, Case) and case.algorithm == "mpi"
        return self.waits[0 if is_native else rank][number] if self.waits else 0


def call(case: Case, rank: int, size: int) -> Call:
    """A case as one rank's call."""
    has_mistake, out = bool(mistakes(case, size)), like(case, rank, size)
    if rank == size - 1 and is_odd(case, size):
        case = odd_one(case) or case
    if case.collective == "barrier":
        return Call("barrier", None, {"algorithm": case.algorithm}, manner=case.manners[rank])
    root = case.root if case.root == NOWHERE else case.root % size
    x: Array | None = case.operand(rank)
    if case.collective in FROM_ROOT and rank != root:  # where it is not looked at
        x = (None, np.zeros(3, np.int8), np.zeros(*out))[case.seed % 3]
    into = None if has_mistake else case.into[rank]
    if case.fault:
        into = Place("frozen" if case.fault == "read-only" else "c")
    return Call(
        case.collective,
        x,
        keywords(case, root, size),
        case.places[rank],
        into,
        out,
        gives=case.collective not in TO_ROOT or rank == root,
        manner=case.manners[rank],
        waits=list(WAITS)[(case.seed + rank) % len(WAITS)],
    )


def like(case: Case, rank: int, size: int) -> Like:
    """What the result is like, or what an out is that cannot take it."""
    sound = replace(case, fault="", odd="")
    result = None if mistakes(sound, size) else expected(sound, size)[rank]
    shape = case.shape if result is None else result.shape
    return Like((*shape, 2, 2) if case.fault == "shape" else shape, case.kind)


def keywords(case: Case, root: int, size: int) -> dict[str, Any]:
    """What a call is told beside arrays."""
    found: dict[str, Any] = {"algorithm": case.algorithm}
    if case.collective in REDUCING:
        found["op"] = OPS.get(case.op, case.op)
    if case.collective in ROOTED:
        found["root"] = root
    if case.collective == "alltoall":
        found |= {"split_dim": case.dim, "concat_dim": case.other}
    elif case.collective in WITH_DIM:
        found["dim"] = case.dim
    if case.counts and not any(faults(case)):
        found["counts"] = lengths(case, operands(case, size))
    if case.view:
        found["view"] = True
    return found


def exchange(post: Post, rank: int, size: int) -> Exchange:
    """One rank's messages."""
    moves: list[Sending | Receiving] = []
    for letter in post.sent(size):
        sending = Sending(letter.dest, letter.tag, letter.content(), letter.place)
        receiving = Receiving(letter.source, letter.tag, awaited(letter), letter.into)
        moves += [sending] * (letter.source == rank) + [receiving] * (letter.dest == rank)
    if post.how == "sendrecv":  # each sends first
        pairs = zip(moves[::2], moves[1::2], strict=True)
        moves = [move for pair in pairs for move in sorted(pair, key=is_receiving)]
    return Exchange(post.how, tuple(moves), post.backwards)


def is_receiving(move: Sending | Receiving) -> bool:
    return isinstance(move, Receiving)


def awaited(letter: Letter) -> Like:
    """What the receiver of a letter says that it is like."""
    shape = letter.shape
    if letter.more:
        shape = (shape[0] + letter.more, *shape[1:])
    return Like(shape, letter.kind)


Answers = Sequence[Any]  # of one rank: a number and an Answer for each call, then a State


def works(answers: Answers) -> bool:
    """Whether the communicator of a rank was in order after its calls."""
    return not answers or (isinstance(answers[-1], State) and answers[-1].works)


def verify(plan: Plan, ranks: int, answers: Sequence[Answers]) -> None:
    """Check what all ranks answered."""
    for group in plan.groups or (tuple(range(ranks)),):
        theirs = [dict(answers[rank][:-1]) for rank in group]
        states = [answers[rank][-1] for rank in group]
        for number, case in enumerate(plan.cases):
            check(case, [answer[number] for answer in theirs])
        assert all(state == State(True, ()) for state in states), states


def check(case: Case | Post, answers: list[Answer]) -> None:
    """Check what the ranks of one group answered to one call."""
    errors = {answer.error for answer in answers}
    flaws = [answer.flaws for answer in answers]
    if isinstance(case, Post):
        assert errors <= {"", "MismatchError"}, (case, answers)
        deliver(case, len(answers), [None if a.error else a.value for a in answers])
    elif allowed := mistakes(case, len(answers)):
        assert len(errors) == 1 and errors <= allowed, (case, allowed, answers)
    else:
        assert errors == {""}, (case, answers)
        compare(case, [answer.value for answer in answers])
    assert not any(flaws), (case, flaws)
    for answer in answers:
        if answer.error == "MismatchError":
            named = re.findall(r"rank (\d+)", answer.message)
            assert len(named) > 1, f"expected both sides in {answer.message!r}"
