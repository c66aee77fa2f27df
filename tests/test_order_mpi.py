"""Order, groups and dialects on real ranks: right, or one line and exit code 2."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MpiRun
from onnx import parser

from rankwise.models.dialects.translation import translated
from rankwise.models.tokens import ordered
from rankwise.runtime import arrays

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

FIRST = "a = rankwise.AllReduce(x) h = Neg(x) b = com.microsoft.AllReduce(h) y = Sub(a, b)"
SECOND = "h = Neg(x) b = com.microsoft.AllReduce(h) a = rankwise.AllReduce(x) y = Sub(a, b)"


def model(body: str) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    made = parser.parse_model(f"{header} g (float[n] x) => (float[n] y) {{ {body} }}")
    for node in made.graph.node:
        node.name = node.output[0]
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    arrays.save("in.npz", {"x": np.arange(5, dtype=np.float32)})
    return tmp_path


def run(mpirun: MpiRun, ranks: int) -> subprocess.CompletedProcess[str]:
    arguments = "run {rank}.onnx --inputs in.npz --outputs out.npz"
    return mpirun(ranks, ["-m", "rankwise", *arguments.split()])


def test_files_with_their_nodes_in_any_order_run_where_they_state_one(
    mpirun: MpiRun, place: Path
) -> None:
    for rank in range(3):
        made = ordered(translated(model(FIRST)), "tokens")
        nodes = list(made.graph.node)
        del made.graph.node[:]
        made.graph.node.extend(reversed(nodes) if rank == 1 else nodes)
        onnx.save(made, f"{rank}.onnx")
    done = run(mpirun, 3)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(arrays.load("out.npz")["y"], 6 * np.arange(5))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SECOND, "rank 1, AllReduce 'b'"),
        (FIRST.replace("(x)", "<groups=[0, 2]>(x)"), "rank 1 is in none of the groups [0, 2]"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_code_2(
    mpirun: MpiRun, place: Path, other: str, message: str
) -> None:
    for rank in range(3):
        onnx.save(model(other if rank == 1 else FIRST), f"{rank}.onnx")
    done = run(mpirun, 3)
    said = [line for line in done.stderr.splitlines() if line.startswith("rankwise")]
    assert (done.returncode, len(said)) == (2, 1), done.stderr
    assert message in said[0]
