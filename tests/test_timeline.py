"""Spans of all ranks on one clock: what was waited for, the table, and the file for Perfetto."""

import json
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seed_programs import CONTROL, SEEDS, fed

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.runtime import clock, perfetto
from rankwise.runtime.timeline import Place, Timeline, table, timeline
from rankwise.runtime.trace import Span

WORLD = (0, 1, 2)


def call(start: float, end: float, op: str = "AllReduce", **more: Any) -> Span:
    return Span("communication", f"{op} 'a'", start, end, op, 3_000_000, group=WORLD, **more)


REDUCED = [[call(0.0, 5.0)], [call(3.0, 5.0)], [call(1.0, 4.0)]]
SENT = [
    [call(2.0, 2.5, "Send", peer=1, tag=7), call(3.0, 3.5, "Send", peer=1, tag=7)],
    [call(1.0, 2.75, "Recv", peer=0, tag=7), call(4.0, 4.5, "Recv", peer=0, tag=7)],
    [],
]


def test_who_comes_to_a_collective_waits_for_the_last() -> None:
    (found,) = Timeline.of(REDUCED).calls
    assert (found.latest, found.began, found.moving, found.size) == (1, 3.0, 2.0, 3_000_000)
    assert [found.waiting(Place(rank, 0)) for rank in range(3)] == [3.0, 0.0, 2.0]


def test_who_receives_waits_until_it_is_sent() -> None:
    early, late = Timeline.of(SENT).calls
    assert (early.source, early.latest, early.waiting(Place(1, 0))) == (Place(0, 0), 0, 1.0)
    assert (late.source, late.moving, late.waiting(Place(1, 1))) == (Place(0, 1), 1.5, 0.0)


def test_a_wait_is_no_longer_than_the_call() -> None:
    (found,) = Timeline.of([[call(0.0, 0.5)], [call(3.0, 3.5)], [call(3.25, 4.0)]]).calls
    assert [found.waiting(Place(rank, 0)) for rank in range(3)] == [0.5, 0.25, 0.0]


def test_the_calls_of_a_group_are_matched_in_order() -> None:
    pair = [call(0.0, 1.0)._replace(group=(0, 2)), call(1.0, 2.0)]
    line = Timeline.of([pair, [call(0.5, 2.0)], [pair[1], call(2.5, 3.0)._replace(group=(0, 2))]])
    assert sorted(sorted(c.parts) for c in line.calls) == [
        [(0, 0), (2, 1)],
        [(0, 1), (1, 0), (2, 0)],
    ]


def test_the_table_says_what_each_operator_took_and_who_was_late() -> None:
    lines = table(Timeline.of([a + b for a, b in zip(REDUCED, SENT, strict=True)])).splitlines()
    assert lines[0].split("  ")[0] == "op"
    # 3 MB, of which 4/3 pass the slowest link, in 2 s; three ranks waited 5 s together.
    assert lines[1].split() == [
        *("AllReduce", "1", "3,000,000", "2.0000", "1.6667", "0.0020", "rank", "1,", "5.0000", "s")
    ]
    assert lines[2].split()[:4] == ["Send,", "Recv", "2", "6,000,000"]
    assert lines[2].endswith("rank 0, 1.0000 s")


def test_a_trace_holds_slices_waits_and_arrows(tmp_path: Path) -> None:
    perfetto.write(tmp_path / "trace.json", Timeline.of(SENT))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [(e["name"], e["pid"], e["args"]["name"]) for e in events if e["ph"] == "M"]
    assert names == [
        named
        for rank in range(3)
        for named in (("process_name", rank, f"rank {rank}"), ("thread_name", rank, "steps"))
    ]
    assert {e["tid"] for e in events} == {0}
    (first, wait) = (e for e in events if e["ph"] == "X" and e["pid"] == 1 and e["ts"] == 0)
    assert (first["cat"], first["dur"]) == ("communication", 1_750_000)
    assert first["args"] == {"op": "Recv", "bytes": 3_000_000, "sent": 0, "peer": 0, "tag": 7}
    assert (wait["cat"], wait["name"], wait["dur"]) == ("wait", "wait for rank 0", 1_000_000)
    arrows = [(e["ph"], e["pid"], e["id"], e["ts"]) for e in events if e["ph"] in "sf"]
    assert arrows == [
        ("s", 0, 0, 1_000_000), ("f", 1, 0, 1_750_000),
        ("s", 0, 1, 2_000_000), ("f", 1, 1, 3_500_000),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["collectives", "halos", "a loop with a ring", "roots"])
def test_every_communication_of_a_run_is_matched(name: str) -> None:
    program = {**SEEDS, **CONTROL}[name]

    def work(comm: Communicator) -> tuple[Timeline | None, int]:
        source = program.models[comm.rank].SerializeToString()
        with rankwise.InferenceSession(source, comm=comm) as session:
            session.run(None, {"x": fed(comm.rank)})
            assert session.trace.spans is None
            session.is_traced = True
            session.run(None, {"x": fed(comm.rank)})
            assert session.trace.spans is not None
            count = sum(cost.count for cost in session.trace.operators.values())
            return timeline(comm, session.trace.spans), count

    (line, _), *others = results = local.run(len(program.models), work, timeout=30)
    assert line is not None and [other for other, _ in others] == [None] * len(others)
    spans = [[s for s in rank if s.kind == "communication"] for rank in line.ranks]
    assert [len(rank) for rank in spans] == [count for _, count in results]
    matched = sum(len(found.parts) + (found.source is not None) for found in line.calls)
    assert matched == sum(map(len, spans))
    assert all(a.start <= a.end <= b.end for rank in spans for a, b in pairwise(rank))


class Shifted:
    """A clock that is ahead by 100 s on each rank more than on the one before."""

    def __init__(self) -> None:
        self.here = threading.local()

    def perf_counter(self) -> float:
        return time.perf_counter() + 100.0 * self.here.rank


def test_the_clocks_of_ranks_are_brought_together(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = Shifted()
    monkeypatch.setattr(clock, "time", shifted)

    def work(comm: Communicator) -> list[float]:
        shifted.here.rank = comm.rank
        return clock.offsets(comm)

    found, *others = local.run(3, work, timeout=30)
    np.testing.assert_allclose(found, [0.0, -100.0, -200.0], atol=0.05)
    assert others == [[0.0] * 3] * 2
