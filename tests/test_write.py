"""Directories of sharded models: what is in them, and what they leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import graphs
import lockstep
import onnx
import pytest
import ranks
from comparison import assert_same

from rankwise.models.errors import ModelError
from rankwise.models.manifest import Manifest
from rankwise.models.sharding import shard, shard_rank


def saved(case: graphs.Case, directory: Path) -> Path:
    path = directory / "model.onnx"
    onnx.save(case.model, path)
    return path


def test_an_mlp_is_cut_by_column_and_row_with_one_allreduce(tmp_path: Path) -> None:
    manifest = shard(saved(graphs.MLP, tmp_path), tmp_path / "out", "tp=2")
    assert manifest.collectives == {"AllReduce": 1}
    first = onnx.load(tmp_path / "out" / "rank0.onnx", load_external_data=False)
    shapes = {tensor.name: list(tensor.dims) for tensor in first.graph.initializer}
    assert shapes["w1/local"] == [16, 15]
    assert shapes["w2/local"] == [15, 9]


def test_a_directory_holds_a_model_a_rank_and_a_manifest(tmp_path: Path) -> None:
    done = []
    manifest = shard(
        saved(graphs.CNN, tmp_path),
        tmp_path / "out",
        "tp=2",
        progress=lambda a, b: done.append((a, b)),
    )
    assert Manifest.read(tmp_path / "out") == manifest
    assert manifest.mesh == {"tp": 2}
    assert manifest.world_size == 2
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"rank0.onnx", "rank1.onnx", "manifest.json"}
    assert done[-1][0] == done[-1][1] == sum(entry.weight_bytes for entry in manifest.ranks)


def test_weight_bytes_are_those_of_the_initializers(tmp_path: Path) -> None:
    manifest = shard(saved(graphs.GROUPED_QUERIES, tmp_path), tmp_path / "out", "tp=3")
    for entry in manifest.ranks:
        model = onnx.load(tmp_path / "out" / entry.model)
        arrays = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
        assert entry.weight_bytes == sum(array.nbytes for array in arrays)


def test_spmd_keeps_the_whole_model_and_counts_what_a_rank_will_hold(tmp_path: Path) -> None:
    source = saved(graphs.MLP, tmp_path)
    spmd = shard(source, tmp_path / "spmd", "tp=2", representation="spmd")
    per_rank = shard(source, tmp_path / "ranks", "tp=2")
    assert [e.weight_bytes for e in spmd.ranks] == [e.weight_bytes for e in per_rank.ranks]
    (path,) = (tmp_path / "spmd").glob("*.onnx")
    (got,) = lockstep.run([onnx.load(path)], graphs.MLP.feeds)
    assert_same(got, ranks.whole(graphs.MLP.model, graphs.MLP.feeds))


def test_a_rank_alone_writes_what_the_directory_has(tmp_path: Path) -> None:
    source = saved(graphs.PACKED_QKV, tmp_path)
    shard(source, tmp_path / "out", "tp=2")
    (tmp_path / "one").mkdir()
    path = shard_rank(source, "tp=2", 1, tmp_path / "one")
    assert onnx.load(path) == onnx.load(tmp_path / "out" / "rank1.onnx")


def test_a_sharding_replaces_an_earlier_one_but_nothing_else(tmp_path: Path) -> None:
    source, place = saved(graphs.MLP, tmp_path), tmp_path / "out"
    shard(source, place, "tp=4")
    shard(source, place, "tp=2")
    assert {path.name for path in place.glob("*.onnx")} == {"rank0.onnx", "rank1.onnx"}
    (place / "manifest.json").unlink()
    with pytest.raises(ModelError, match="name another directory"):
        shard(source, place, "tp=2")


def test_a_sharding_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = saved(graphs.CNN, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        shard(source, tmp_path / "out", "tp=2", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_manifest_that_disagrees_with_itself_is_refused(tmp_path: Path) -> None:
    shard(saved(graphs.MLP, tmp_path), tmp_path / "out", "tp=2")
    path = tmp_path / "out" / "manifest.json"
    fields = json.loads(path.read_text())
    for change in ({"world_size": 3}, {"format": 9}, {"ranks": 4}, {"representation": "other"}):
        path.write_text(json.dumps(fields | change))
        with pytest.raises(ModelError):
            Manifest.read(tmp_path / "out")


WRITER = """
import sys
from rankwise.models.sharding import shard
def stay(done, total):
    print("writes", flush=True)
    sys.stdin.readline()
shard(sys.argv[1], sys.argv[2], "tp=2", progress=stay)
"""


def test_what_a_killed_process_left_goes_with_the_next_sharding_but_nothing_else(
    tmp_path: Path,
) -> None:
    source, out = saved(graphs.MLP, tmp_path), tmp_path / "out"
    others = [tmp_path / ".out.mine", tmp_path / ".output.lock"]
    for other in others:
        other.mkdir()
    command = [sys.executable, "-c", WRITER, str(source), str(out)]
    writers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"writes\n"
    writers[0].kill()
    writers[0].communicate()
    shard(source, out, "tp=2")
    (left,) = {path for path in tmp_path.iterdir() if path.is_dir()} - {out, *others}
    assert left.name.startswith(".out.")
    writers[1].communicate(b"\n" * 100)
    assert writers[1].returncode == 0
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {out, *others}
    assert not [path for path in out.iterdir() if "lock" in path.name]


def test_a_file_system_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".out.left").mkdir()
    shard(saved(graphs.MLP, tmp_path), tmp_path / "out", "tp=2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.left", "model.onnx", "out"]
    assert not [path for path in (tmp_path / "out").iterdir() if "lock" in path.name]
