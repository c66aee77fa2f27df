"""Where the time of a run went, and what it sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass
class Cost:
    """What one kind of communication took on this rank."""

    count: int = 0
    seconds: float = 0.0
    bytes: int = 0
    """sent by this rank; those inside MPI's own collectives are not known"""


class Span(NamedTuple):
    """One thing that a rank did, and from when to when, in seconds of its own clock."""

    kind: Literal["fragment", "control", "communication", "flush"]
    """flush: waiting at the end until all that was sent has left"""
    name: str
    start: float
    end: float
    op: str = ""
    size: int = 0
    """bytes of the operand or of the result, whichever is more"""
    sent: int = 0
    """bytes that this rank has sent in it"""
    group: tuple[int, ...] = ()
    """the ranks that take part"""
    peer: int | None = None
    """the other rank of a message"""
    tag: int = 0


@dataclass
class Trace:
    """One run on one rank."""

    compute_seconds: float = 0.0
    operators: dict[str, Cost] = field(default_factory=dict)
    """by operator"""
    spans: list[Span] | None = None
    """in the order of their ends; None where nobody has asked for them"""

    @property
    def communication_seconds(self) -> float:
        """Seconds in communication nodes, waiting for others included."""
        return sum(cost.seconds for cost in self.operators.values())

    @property
    def bytes_sent(self) -> int:
        return sum(cost.bytes for cost in self.operators.values())

    def communicated(self, op: str, seconds: float, nbytes: int) -> None:
        """Count one communication."""
        cost = self.operators.setdefault(op, Cost())
        cost.count += 1
        cost.seconds += seconds
        cost.bytes += nbytes
