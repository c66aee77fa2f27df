"""What the tests of the verb bench have in common: runs between threads, and a fault."""

from __future__ import annotations

import pytest

from rankwise.collectives import Communicator, local
from rankwise.collectives.cluster import Cluster
from rankwise.collectives.origin import Origin
from rankwise.runtime.bench import BenchOptions, bench

ORIGIN = Origin("2026-11-21T12:00:00+00:00", "here", "none", 2)
CLUSTER = Cluster(1e-3, 2e-9, 1e-9, 0.0, 2, ORIGIN)


def run(size: int, **options: object) -> list[int]:
    chosen = BenchOptions(**{"minbytes": "8", "maxbytes": "1000", "stepfactor": 12, **options})  # type: ignore[arg-type]  # of any field
    return local.run(size, lambda comm: bench(chosen, comm), timeout=60)


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    lines = capsys.readouterr().out.splitlines()
    return [line.split() for line in lines if line.split()[0].isdecimal()]


def spoil(monkeypatch: pytest.MonkeyPatch, *, in_place: bool) -> None:
    """Let one value of one rank be wrong in every allreduce by a tree."""
    right = Communicator.allreduce

    def wrong(comm: Communicator, x, op="sum", *, out=None, **options):  # type: ignore[no-untyped-def]  # a stand-in
        made = right(comm, x, op, out=out, **options)
        if options.get("algorithm") == "tree" and (out is x) == in_place:
            made[0] += comm.rank == 1
        return made

    monkeypatch.setattr(Communicator, "allreduce", wrong)
