"""What a run cost: by rank and by operator, as a file and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.table import aligned
from .session import InferenceSession

COLUMNS = (
    "rank", "weight_bytes", "peak_bytes", "load_seconds", "compute_seconds",
    "communication_seconds", "bytes_sent", "threads",
)  # fmt: skip


def peak_bytes() -> int:
    """Return the most memory that this process has had in use: resident, mapped files included."""
    # getrusage would not do: it starts with the peak of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("expected VmHWM in /proc/self/status, found none")


def of_rank(session: InferenceSession, rank: int) -> dict[str, Any]:
    """Return one rank's part of a report, on the latest run."""
    trace = session.trace
    values = (
        rank, session.weight_bytes, peak_bytes(), session.load_seconds, trace.compute_seconds,
        trace.communication_seconds, trace.bytes_sent, session.threads,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def operators(session: InferenceSession) -> dict[str, dict[str, float]]:
    """Return what each operator cost on this rank."""
    return {
        name: {"count": cost.count, "seconds": cost.seconds, "bytes": cost.bytes}
        for name, cost in session.trace.operators.items()
    }


def table(ranks: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the ranks of a report."""
    headings = [name.replace("_", " ") for name in COLUMNS]
    return aligned([headings, *([entry[name] for name in COLUMNS] for entry in ranks)])


def write(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON."""
    Path(path).write_text(json.dumps(report, indent=2) + "\n")
