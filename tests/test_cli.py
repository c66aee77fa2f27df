"""The command line in one process: its verbs, its messages and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import MLP, build

from rankwise.collectives.cluster import Cluster
from rankwise.collectives.origin import Origin
from rankwise.models.manifest import Manifest
from rankwise.runtime import arrays, cli
from rankwise.runtime.signature import Value, random_feeds
from rankwise.runtime.verbs import VERBS
from rankwise.runtime.verbs.terms import size_in_bytes


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.onnx and in.npz in the working directory."""
    monkeypatch.chdir(tmp_path)
    onnx.save(MLP.model, "model.onnx")
    arrays.save("in.npz", MLP.feeds)
    return tmp_path / "model.onnx"


def rankwise(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rankwise", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_shows_the_verbs_and_each_verb_has_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in ("inspect", "shard", "run", "schedule", "doctor"):
        assert f"\n    {verb} " in shown
        assert cli.main([verb, "--help"]) == 0
        assert "example: " in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "rankwise 0.1.0\n"


def test_schedule_prints_the_grid_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schedule", "allreduce", "ring", "-n", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["round", *(f"{word}" for k in range(4) for word in ("rank", k))]
    assert lines[-1].startswith("6 rounds; blocks sent per rank: 6;")
    assert cli.main(["schedule", "broadcast", "tree", "-n", "3", "--root", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 rounds; ")
    assert cli.main(["schedule", "allreduce", "segmented_ring", "-n", "2", "--segments", "3"]) == 0
    last = "6 rounds; blocks sent per rank: 6; 1 block = 1/6 of the data"
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert cli.main(["schedule", "allreduce", "hierarchical", "-n", "3", "--nodes", "2,1"]) == 0
    assert "blocks sent per rank: [6, 3, 3]" in capsys.readouterr().out
    assert cli.main(["schedule", "allreduce", "one_shot", "-n", "3"]) == 0
    shown = capsys.readouterr().out
    assert "@1:3-5~0-2+" in shown
    assert "@1:3 loads" in shown
    assert "sends block 3" not in shown
    assert "sent per rank: 0, loaded: 6;" in shown


def test_shard_writes_what_inspect_reads(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shard", "model.onnx", "-o", "two", "--mesh", "tp=2"]) == 0
    written = capsys.readouterr().out
    assert cli.main(["inspect", "two"]) == 0
    assert capsys.readouterr().out == written
    for entry in Manifest.read("two").ranks:
        assert f"{entry.model}" in written
        assert f"{entry.weight_bytes}" in written
    assert cli.main(["inspect", "model.onnx"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert cli.main(["inspect", "model.onnx", "--mesh", "tp=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mesh"] == "tp=3"
    assert cli.main(["inspect", "two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["world_size"] == 2


TWO_PAIRS = build(
    """(float[b,16] x) => (float[b,16] y) {
      h = MatMul(x, w1)
      r = Relu(h)
      s = MatMul(r, w2)
      g = MatMul(s, w3)
      u = Relu(g)
      y = MatMul(u, w4)
    }""",
    w1=(16, 96), w2=(96, 16), w3=(16, 8), w4=(8, 16),
)  # fmt: skip
"""Of which the second pair of weights is worth no AllReduce here, and not needed for half."""


def test_memory_a_cluster_and_hints_change_the_choice(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(*more: str) -> list[str]:
        asked = ["shard", "two.onnx", "--mesh", "tp=2", "--dry-run", "--json", *more]
        assert cli.main(asked) == 0
        return [row["axis"] for row in json.loads(capsys.readouterr().out)["prices"]]

    onnx.save(TWO_PAIRS, "two.onnx")
    assert cut() == cut("--memory", "1MB") == ["96"]
    assert cut("--memory", "6900") == ["96", "8"]
    origin = Origin("2026-11-21", "here", "MPI", 2)
    Cluster(1e-9, 1e-12, 0.0, 0.0, 2, origin).write(Path("fast.json"))
    assert cut("--cluster", "fast.json") == ["96", "8"]
    Path("hints.yaml").write_text("w1: whole\nw3: {dim: 1}\n")
    assert cut("--hints", "hints.yaml", "--memory", "1MB") == ["8"]
    for number, more in enumerate((("--memory", "6900"), ("--cluster", "fast.json"))):
        asked = ["shard", "two.onnx", "-o", f"{number}", "--mesh", "tp=2", *more]
        assert cli.main(asked) == 0
        held = [entry.weight_bytes for entry in Manifest.read(f"{number}").ranks]
        assert held == [4 * 16 * (48 + 48 + 4 + 4)] * 2


def test_what_a_hint_says_is_written(model: Path) -> None:
    Path("hints.yaml").write_text("w1: {dim: 0}\nb2: whole\n")
    asked = ["shard", "model.onnx", "-o", "hinted", "--mesh", "tp=2", "--hints", "hints.yaml"]
    assert cli.main(asked) == 0
    first = onnx.load("hinted/rank0.onnx", load_external_data=False)
    shapes = {tensor.name: list(tensor.dims) for tensor in first.graph.initializer}
    assert shapes["w1/local"] == [8, 30]


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("7", 7), ("64K", 64000), ("2GB", 2 * 10**9), ("1.5GiB", 3 << 29), ("512 mb", 512 * 10**6)],
)
def test_sizes_are_read(text: str, nbytes: int) -> None:
    assert size_in_bytes(text) == nbytes


def test_a_dry_run_writes_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().iterdir())
    asked = ["shard", "model.onnx", "-o", "two", "--mesh", "tp=2", "--dry-run"]
    assert cli.main(asked) == 0
    assert "weight bytes" in capsys.readouterr().out
    assert cli.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["collectives"] for row in found["ranks"]] == [{"AllReduce": 1}] * 2
    assert sorted(Path().iterdir()) == before


@pytest.mark.mpi
def test_run_on_one_rank_writes_outputs_and_a_report(model: Path) -> None:
    arguments = "run model.onnx --inputs in.npz --outputs out.npz --compare --report r.json"
    done = rankwise(*arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    expected = onnxruntime.InferenceSession(model).run(None, MLP.feeds)[0]
    np.testing.assert_allclose(arrays.load("out.npz")["y"], expected, rtol=1e-5, atol=1e-5)
    report = json.loads(Path("r.json").read_text())
    assert (report["world_size"], report["compare"]["equal"]) == (1, True)
    assert report["ranks"][0]["weight_bytes"] == 4 * (16 * 30 + 30 + 30 * 9 + 9)
    assert report["ranks"][0]["bytes_sent"] == 0
    assert "compare  equal" in done.stdout


BAD = {
    "unknown verb": ("frobnicate", "invalid choice: 'frobnicate'"),
    "no verb": ("", "required: VERB"),
    "unknown algorithm": (
        "schedule allreduce rings -n 4",
        "algorithm of allreduce (ring, segmented_ring, tree, ",
    ),
    "unknown collective": ("schedule allsum ring -n 4", "allreduce, reduce_scatter"),
    "root of what has none": ("schedule allreduce ring -n 4 --root 1", "has no root"),
    "root beyond": ("schedule broadcast tree -n 4 --root 4", "from 0 to 3, got 4"),
    "segments of what cuts nothing": (
        "schedule allreduce ring -n 4 --segments 2",
        "--segments out",
    ),
    "no segments": ("schedule allreduce segmented_ring -n 4 --segments 0", "from 1, got 0"),
    "nodes of what sees none": ("schedule allreduce ring -n 4 --nodes 2,2", "leave --nodes out"),
    "other nodes": ("schedule allreduce hierarchical -n 4 --nodes 2,1", "4 ranks, got 2,1"),
    "nodes in words": ("schedule allreduce hierarchical -n 4 --nodes two", "--nodes: invalid"),
    "no ranks": ("schedule allreduce ring -n 0", "from 1 to 256 ranks, got 0"),
    "missing model": ("inspect nothing.onnx", "nothing.onnx does not exist"),
    "truncated model": ("inspect short.onnx", "short.onnx is no ONNX model"),
    "directory without a manifest": ("inspect .", "has no manifest.json"),
    "no output": ("shard model.onnx --mesh tp=2", "expected -o DIR"),
    "bad mesh": ("shard model.onnx -o d --mesh tp:2", "expected a mesh such as tp=4"),
    "memory in words": (
        "shard model.onnx -o d --mesh tp=2 --memory much",
        "expected a number of bytes such as 512MB or 2GiB, got 'much'",
    ),
    "too little memory": (
        "shard model.onnx -o d --mesh tp=2 --memory 99B",
        "expected weights of at most 99 bytes on each rank, but on 2 ranks the heaviest holds",
    ),
    "auto without ranks": ("shard model.onnx -o d --mesh auto", "give --ranks"),
    "another number of ranks": (
        "shard model.onnx -o d --mesh tp=3 -n 4",
        "of 4 ranks, got tp=3, of 3; tp=4, pp=2,tp=2",
    ),
    "a stage without nodes": (
        "shard model.onnx -o d --mesh pp=9",
        "expected at most 4 stages, got 9",
    ),
    "a batch of no input": (
        "shard model.onnx -o d --mesh dp=2 --batch-dim 7",
        "--batch-dim 7: 'x' has dims 0 to 1",
    ),
    "no cluster file": ("inspect model.onnx --cluster model.onnx", "is no cluster file"),
    "no hints": ("inspect model.onnx --hints no.yaml", "no such file or directory: no.yaml"),
    "hints that match nothing": (
        "inspect model.onnx --hints bad.yaml",
        "hint 'w9' matches no tensor and no node; near it: w2, w1",
    ),
    "a cluster to ranks that choose as they load": (
        "shard model.onnx -o d --mesh tp=2 --representation spmd --cluster cluster.json",
        "its ranks choose as they load",
    ),
    "place that holds other files": ("shard model.onnx -o . --mesh tp=2", "no sharded model"),
    "place that is a file": ("shard model.onnx -o in.npz --mesh tp=2", "in.npz is a file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2(
    model: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, message = BAD[name]
    Path("bad.yaml").write_text("w9: whole")
    Cluster(1e-9, 1e-12, 0.0, 0.0, 2, Origin("2026-11-21", "here", "MPI", 2)).write(
        Path("cluster.json")
    )
    Path("short.onnx").write_bytes(model.read_bytes()[:300])
    assert cli.main(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("rankwise: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_graph_in_which_nothing_can_be_sharded_is_code_1(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(build("(float[b,8] x) => (float[b,8] y) { y = Softmax(x) }"), "soft.onnx")
    assert cli.main(["shard", "soft.onnx", "-o", "d", "--mesh", "tp=2"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("rankwise: nothing in this graph can be sharded")
    assert said.count("\n") == 1
    assert not Path("d").exists()


def test_a_bug_shows_its_traceback_and_is_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = VERBS["inspect"]._replace(carry_out=lambda options: {}[options.model])
    monkeypatch.setitem(VERBS, "inspect", broken)
    assert cli.main(["inspect", "x"]) == 1
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_random_inputs_follow_symbols_and_types() -> None:
    feeds = random_feeds(
        [
            Value("a", "tensor(float)", ["n", 3, "m"]),
            Value("b", "tensor(int64)", ["n", None]),
            Value("c", "tensor(bool)", []),
        ],
        seed=1,
    )
    assert {name: x.shape for name, x in feeds.items()} == {"a": (2, 3, 8), "b": (2, 8), "c": ()}
    assert set(feeds["b"].ravel().tolist()) <= {0, 1}
    assert [x.dtype for x in feeds.values()] == [np.float32, np.int64, np.bool_]
    with pytest.raises(ValueError, match="give it with --inputs"):
        random_feeds([Value("s", "tensor(string)", [2])], seed=0)
