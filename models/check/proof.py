"""The check of a program: one pass, or two where something has to be assumed.

Where ranks decide on several unknown values, some may be true and others false: then two more
passes take what branches give for what is known of both their ways.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..mesh import Mesh
from ..plan import Plan
from .events import STEPS, Decision, Exhausted, Shared
from .findings import Finding, Verdict
from .match import Match
from .program import Program
from .transfer import Transfer
from .values import Tensor


def check(
    plans: Sequence[Plan],
    meshes: Sequence[Mesh | None] = (),
    *,
    rendezvous: bool = False,
    steps: int = STEPS,
) -> Verdict:
    """Run the plans of all ranks, in rank order, on what is known of them, and say what is wrong.

    `meshes` are those that axis_name speaks of, by rank too; empty where there are none. With
    `rendezvous` a Send waits for its Recv. Time goes with the nodes of all ranks, iterations
    counted, and is bounded by `steps` of them. Raises ModelError for a group that lacks its rank,
    and for a token that is none.
    """
    of_ranks = list(zip(plans, meshes or [None] * len(plans), strict=True))
    transfer = Transfer()
    ways: dict[tuple[int, int], list[Tensor]] = {}

    def passed(*, assumed: bool, is_mixed: bool = False) -> Pass:
        shared = Shared(len(plans), transfer, assumed, steps, ways, is_mixed)
        return _pass(of_ranks, shared, rendezvous=rendezvous)

    passes = [passed(assumed=True)]
    if passes[0].decisions:
        passes.append(passed(assumed=False))
    if ways and any(one.conditions > 1 for one in passes):
        passes += [passed(assumed=assumed, is_mixed=True) for assumed in (True, False)]
    alone = [finding for one in passes for finding in _taken_alone(one.decisions)]
    if alone:
        # What is wrong in one pass may come of an assumption that never holds on all ranks.
        others = [f for f in passes[0].findings if all(f in one.findings for one in passes)]
        found = [*alone, *others]
    else:
        found = [finding for one in passes for finding in one.findings]
    return Verdict(
        tuple(dict.fromkeys(found)),
        len(plans),
        max(one.communications for one in passes),
        max(one.open for one in passes),
        all(one.is_complete for one in passes),
    )


class Pass(NamedTuple):
    """One run of all programs."""

    findings: list[Finding]
    decisions: list[Decision]
    communications: int
    open: int
    is_complete: bool

    @property
    def conditions(self) -> int:
        """How many unknown values were decided on."""
        return len({decision.number for decision in self.decisions})


def _pass(
    of_ranks: Sequence[tuple[Plan, Mesh | None]], shared: Shared, *, rendezvous: bool
) -> Pass:
    programs = [
        Program(plan, rank, mesh, shared).events() for rank, (plan, mesh) in enumerate(of_ranks)
    ]
    match, is_complete = Match(programs, shared, rendezvous=rendezvous), True
    try:
        match.run()
    except Exhausted:
        is_complete = False
    return Pass(shared.findings, shared.decisions, match.communications, match.open, is_complete)


def _taken_alone(decisions: Sequence[Decision]) -> Iterator[Finding]:
    """Yield the decisions that another rank they concern does not make on the same value."""
    deciding = defaultdict[int, set[int]](set)
    for decision in decisions:
        deciding[decision.number].add(decision.rank)
    for decision in decisions:
        others = sorted(decision.ranks - deciding[decision.number] - {decision.rank})
        if decision.about and others:
            text = (
                f"expected a condition that is the same on rank {others[0]}, since it decides on "
                f"{decision.about}; Broadcast it first"
            )
            yield Finding(
                "branch", decision.rank, decision.op, decision.node, text, is_certain=False
            )
