"""The check at load and the trace, on real ranks."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from conftest import MpiRun
from programs import model

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

RANKWISE = ["-m", "rankwise"]
NEXT = """
    one = Constant<value_int=1>() r = R.Rank() n = R.Size() s = Add(r, one) next = Mod(s, n)
    m = Add(r, n) p = Sub(m, one) last = Mod(p, n) a = R.AllReduce(x)
"""


def test_a_run_is_traced_on_one_clock(mpirun: MpiRun, tmp_path: Path) -> None:
    body = NEXT + "t = R.Send(a, next) b = R.Recv<FLOAT>(last) y = Neg(b)"
    onnx.save(model(body, "(float[4] x) => (float[4] y)"), tmp_path / "ring.onnx")
    arguments = ["run", str(tmp_path / "ring.onnx"), "--trace", str(tmp_path / "trace.json")]
    done = mpirun(3, [*RANKWISE, *arguments])
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert ["AllReduce", "1", "16"] in [row[:3] for row in table]
    assert ["Send,", "Recv", "3", "48"] in [row[:4] for row in table]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    reduced = [e for e in events if e["name"] == "AllReduce 'a'"]
    assert sorted(e["pid"] for e in reduced) == [0, 1, 2]
    # On one clock, right to half a message's round: nobody is done before everybody has come.
    come, done_first = max(e["ts"] for e in reduced), min(e["ts"] + e["dur"] for e in reduced)
    assert come < done_first + 5_000


def test_a_deadlock_is_one_line_before_anything_runs(mpirun: MpiRun, tmp_path: Path) -> None:
    body = NEXT + "y = R.Recv<FLOAT>(last) t = R.Send(y, next)"
    onnx.save(model(body, "(float[4] x) => (float[4] y)"), tmp_path / "ring.onnx")
    done = mpirun(3, [*RANKWISE, "run", str(tmp_path / "ring.onnx")])
    said = [line for line in done.stderr.splitlines() if line.startswith("rankwise:")]
    assert done.returncode == 2 and len(said) == 1
    assert "rank 0, Recv 'y': deadlock: Recv 'y' of rank 0 waits for rank 2" in said[0]
