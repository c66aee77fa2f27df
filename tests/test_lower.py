"""rankwise lower, and runs of what it writes: on the command line and on real ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import MpiRun
from graphs import MLP
from onnx import parser

from rankwise.models.manifest import Manifest
from rankwise.models.plan import build_plan
from rankwise.models.sharding import shard
from rankwise.runtime import arrays, cli

HEADER = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'

CONTROL = """
    r = rankwise.Rank() n = rankwise.Size()
    two = Constant<value_int=2>() one = Constant<value_int=1>() zero = Constant<value_int=0>()
    above = Add(r, one) right = Mod(above, n) below = Sub(r, one) left = Mod(below, n)
    f = Cast<to=1>(r) mine = Add(x, f)
    around = Loop (n, , mine) <body = b (int64 i, bool go, float[n] v) => (bool on, float[n] w) {
        on = Identity(go)
        even = Mod(i, two) is_even = Equal(even, zero)
        w = If (is_even) <
            then_branch = t () => (float[n] p) { p = rankwise.AllReduce(v) },
            else_branch = e () => (float[n] q) {
                sent = rankwise.Send(v, right) q = rankwise.Recv<dtype=1>(left) }> }>
    is_first = Equal(r, zero) last = Sub(n, one) is_last = Equal(r, last)
    y = If (is_first) <
        then_branch = t2 () => (float[n] p2) { p2 = rankwise.Recv<dtype=1, tag=5>(last) },
        else_branch = e2 () => (float[n] q2) {
            q2 = If (is_last) <
                then_branch = t3 () => (float[n] p3) { s3 = rankwise.Send<tag=5>(mine, right)
                    p3 = Identity(around) },
                else_branch = e3 () => (float[n] q3) { q3 = Identity(around) }> }>
    z = rankwise.ParallelFor <returns="concat", body = c (int64 id) => (float[k] o) {
        g = Cast<to=1>(id) o = Mul(around, g) }> (n)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, and inputs for it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(MLP.model, "model.onnx")
    arrays.save("in.npz", MLP.feeds)
    return tmp_path


def written(body: str, name: str = "m.onnx", functions: str = "") -> None:
    ends = "(float[n] x) => (float[a] y)"
    onnx.save(parser.parse_model(f"{HEADER} g {ends} {{ {body} }} {functions}"), name)


def verb(line: str) -> int:
    return cli.main(line.split())


def test_a_file_stays_a_file_where_one_function_does_for_all(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written('a = rankwise.AllReduce(x) y = rankwise.AllReduce<op="max">(a)')
    assert verb("lower m.onnx -o lowered.onnx --collective AllReduce=ring") == 0
    assert capsys.readouterr().out == "lowered.onnx  2 AllReduce by ring\n"
    names = {function.name for function in onnx.load("lowered.onnx").functions}
    assert names == {"RingAllReduceSum", "RingAllReduceMax"}


def test_a_file_becomes_a_directory_with_a_function_for_each_rank(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("a = rankwise.AllReduce(x) y = rankwise.AllGather(a)")
    line = "lower m.onnx -o d -n 3 --collective AllReduce=tree --collective AllGather=bruck"
    assert verb(line) == 0
    assert [entry.model for entry in Manifest.read("d").ranks] == [
        "rank0.onnx", "rank1.onnx", "rank2.onnx"
    ]  # fmt: skip
    assert verb("check d") == 0
    ops = {step.op for step in build_plan(onnx.load("d/rank2.onnx")).communications}
    assert ops == {"Send", "Recv"}


def test_a_directory_for_fewer_ranks_keeps_no_model_of_the_others(place: Path) -> None:
    written("y = rankwise.AllReduce(x)")
    for ranks in (4, 2):
        assert verb(f"lower m.onnx -o d -n {ranks} --collective AllReduce=tree") == 0
    assert {path.name for path in Path("d").iterdir()} == {
        "manifest.json", "rank0.onnx", "rank1.onnx"
    }  # fmt: skip


ERRORS = [
    ("lower m.onnx -o l.onnx --collective AllReduce", "expected --collective OP=ALGORITHM"),
    ("lower m.onnx -o l.onnx --collective AllReduce=tree", "expected the number of ranks, -n"),
    ("lower m.onnx -o l.onnx --collective AllReduce=fast", "expected an algorithm of AllReduce"),
    ("lower m.onnx -o l.onnx --collective Gather=tree", "expected Gather nodes to lower, but"),
    ("lower m.onnx -o l -n 0 --collective AllReduce=ring", "expected -n of at least 1, got 0"),
    ("lower m.onnx -o m.onnx -n 2 --collective AllReduce=ring", "but m.onnx is a file"),
    (
        "lower m.onnx -o . -n 2 --collective AllReduce=ring",
        "holds files that are no sharded model",
    ),
    ("lower mesh.onnx -o l -n 3 --collective AllReduce=ring", "the mesh tp=2, of 2 ranks, not 3"),
    ("lower m.onnx -o m.onnx --collective AllReduce=ring", "expected an output beside m.onnx"),
    ("lower none.onnx -o l.onnx --collective AllReduce=ring", "does not exist"),
    ("lower d -o l -n 4 --collective AllReduce=ring", "d is for 2 ranks, but -n is 4"),
    ("run loop.onnx", "'twice' calls itself: twice > once > twice"),
    ("lower loop.onnx -o l.onnx --collective AllReduce=ring", "'twice' calls itself"),
]


@pytest.mark.parametrize(("line", "message"), ERRORS)
def test_bad_input_is_one_line_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    written("y = rankwise.AllReduce(x)")
    functions = """
        <domain: "own", opset_import: ["" : 20, "own" : 1]> twice (x) => (y) { y = own.once(x) }
        <domain: "own", opset_import: ["" : 20, "own" : 1]> once (x) => (y) { y = own.twice(x) }
    """
    written("y = own.twice(x)", "loop.onnx", functions)
    meshed = onnx.load("m.onnx")
    onnx.helper.set_model_props(meshed, {"rankwise.mesh": "tp=2"})
    onnx.save(meshed, "mesh.onnx")
    if " d " in line:
        shard("model.onnx", "d", "tp=2")
    assert verb(line) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


@pytest.mark.mpi
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("ranks", "chosen", "functions"), [
    (3, "ring", "literal"), (4, "rabenseifner", "literal"), (2, "tree", "native"),
])  # fmt: skip
def test_a_sharded_model_whose_sums_are_functions_gives_the_same(
    mpirun: MpiRun, place: Path, ranks: int, chosen: str, functions: str
) -> None:
    shard("model.onnx", "d", f"tp={ranks}")
    assert verb(f"lower d -o l --collective AllReduce={chosen}") == 0
    line = f"-m rankwise run l --functions {functions} --inputs in.npz --outputs out.npz"
    done = mpirun(ranks, line.split())
    assert (done.returncode, done.stderr.strip()) == (0, "")
    expected = onnxruntime.InferenceSession("model.onnx").run(None, MLP.feeds)[0]
    np.testing.assert_allclose(arrays.load("out.npz")["y"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.mpi
@pytest.mark.timeout(180)
@pytest.mark.parametrize("ranks", [2, 3])
def test_control_flow_runs_on_real_ranks(mpirun: MpiRun, place: Path, ranks: int) -> None:
    ends = "(float[n] x) => (float[a] y, float[n] around, float[b] z)"
    onnx.save(parser.parse_model(f"{HEADER} g {ends} {{ {CONTROL} }}"), "m.onnx")
    x = np.arange(50_000, dtype=np.float32)
    arrays.save("x.npz", {"x": x})
    line = "-m rankwise run m.onnx --inputs x.npz --outputs out{rank}.npz"
    done = mpirun(ranks, line.split())
    assert (done.returncode, done.stderr.strip()) == (0, "")
    mine = [x + rank for rank in range(ranks)]
    around = mine
    for i in range(ranks):
        around = [sum(around)] * ranks if i % 2 == 0 else [around[r - 1] for r in range(ranks)]
    for rank in range(ranks):
        found = arrays.load(f"out{rank}.npz")
        np.testing.assert_array_equal(found["around"], around[rank])
        np.testing.assert_array_equal(found["y"], mine[-1] if rank == 0 else around[rank])
        wanted = np.concatenate([r * around[r] for r in range(ranks)])
        np.testing.assert_array_equal(found["z"], wanted)
