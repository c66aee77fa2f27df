"""What is wrong with a program of several ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["unmatched", "mismatch", "order", "deadlock", "branch", "unready"]
"""unmatched  a message that is not received, or not sent; a collective that ranks are absent from
mismatch   two sides that differ in element type, shape, tag, group, operator or attributes
order      collectives of a group that ranks call in different orders
deadlock   ranks that wait for each other
branch     a branch or loop with communication, about which ranks need not agree
unready    a tensor that is read before it is there"""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where, and what the other side expected."""

    kind: Kind
    rank: int
    op: str
    node: str
    text: str
    is_certain: bool = True
    """False where it takes certain data to go wrong, which ranks compare as they run"""

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.op} {self.node!r}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """What was found, and how much was looked at."""

    findings: tuple[Finding, ...]
    ranks: int
    communications: int
    """nodes that communicated, those of every iteration and rank"""
    open: int
    """of these, how many had a shape or a peer that only a run knows"""
    is_complete: bool = True
    """False where loops are so long that the proof stopped on the way"""

    @property
    def certain(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_certain)

    @property
    def is_proof(self) -> bool:
        """Whether nothing can go wrong, and nothing was left out."""
        return not self.findings and not self.open and self.is_complete

    def __str__(self) -> str:
        if self.findings:
            return "\n".join(map(str, self.findings))
        text = f"ok: {self.communications} communications of {self.ranks} ranks fit"
        if self.open:
            text += f"; {self.open} of them have shapes or peers that only a run knows"
        if not self.is_complete:
            text += "; loops go on longer than was looked at"
        return text
