"""Where the time of a run went, and what it sent."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Cost:
    """What one kind of communication took on this rank."""

    count: int = 0
    seconds: float = 0.0
    bytes: int = 0
    """sent by this rank; those inside MPI's own collectives are not known"""


@dataclass
class Trace:
    """One run on one rank."""

    compute_seconds: float = 0.0
    operators: dict[str, Cost] = field(default_factory=dict)
    """by operator"""

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
