"""Sessions on plain and sharded models: what they take, what they give, what they refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from comparison import assert_same
from deadline import soon
from sessions import Array, model, operand

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.collectives.local import LocalTransport
from rankwise.models.errors import MeshError, ModelError
from rankwise.models.sharding import shard


def mlp(path: Path) -> tuple[Path, dict[str, Array]]:
    rng = np.random.default_rng(5)
    made = model(
        "h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)",
        "(float[n,6] x) => (float[n,4] y)",
        w1=rng.standard_normal((6, 10)).astype(np.float32),
        w2=rng.standard_normal((10, 4)).astype(np.float32),
    )
    onnx.save(made, path / "mlp.onnx")
    return path / "mlp.onnx", {"x": rng.standard_normal((3, 6)).astype(np.float32)}


def refused_by_onnxruntime() -> bytes:
    made = model("u = .Unknown(x) y = rankwise.AllReduce<groups=[0, 1]>(u)")
    return made.SerializeToString()


@pytest.mark.parametrize("how", ["file", "bytes", "spmd", "per-rank"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_plain_model_gives_what_onnxruntime_gives(tmp_path: Path, how: str, size: int) -> None:
    path, feeds = mlp(tmp_path)
    source: Path | bytes = path.read_bytes() if how == "bytes" else path
    if how in ("spmd", "per-rank"):
        source = tmp_path / how
        shard(path, source, f"tp={size}", representation=how)
    expected = onnxruntime.InferenceSession(path).run(None, feeds)[0]

    def on_rank(comm: Communicator) -> tuple[Array, int]:
        with rankwise.InferenceSession(source, comm=comm) as session:
            assert [value.name for value in session.get_inputs()] == ["x"]
            assert session.get_inputs()[0][1:] == ("tensor(float)", ["n", 6])
            assert session.get_outputs()[0] == ("y", "tensor(float)", ["n", 4])
            return session.run(["y"], feeds)[0], session.weight_bytes

    results = local.run(size, on_rank)
    for y, _ in results:
        assert_same(y, expected)
    assert sum(nbytes for _, nbytes in results) == 400


@pytest.mark.parametrize("size", [1, 3])
def test_the_ranks_of_an_spmd_directory_are_chosen_when_it_runs(tmp_path: Path, size: int) -> None:
    path, feeds = mlp(tmp_path)
    shard(path, tmp_path / "spmd", "tp=2", representation="spmd")

    def on_rank(comm: Communicator) -> Array:
        with rankwise.InferenceSession(tmp_path / "spmd", comm=comm) as session:
            assert str(session.mesh) == f"tp={size}"
            return session.run(None, feeds)[0]

    expected = onnxruntime.InferenceSession(path).run(None, feeds)[0]
    for y in local.run(size, on_rank):
        assert_same(y, expected)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"expected feeds \['x'\], missing \['x'\]"),
        ({"x": operand(0, 3, 6), "z": operand(0)}, r"expected feeds \['x'\], got \['z'\] too"),
        ({"x": np.ones((3, 6))}, "input 'x': expected float32, got float64"),
        ({"x": operand(0, 3, 7)}, r"input 'x': expected float32 \[n, 6\], got \[3, 7\]"),
        ({"x": operand(0, 6)}, r"input 'x': expected float32 \[n, 6\], got \[6\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(
    tmp_path: Path, feeds: dict[str, Any], message: str
) -> None:
    path, _ = mlp(tmp_path)

    def on_rank(comm: Communicator) -> None:
        with rankwise.InferenceSession(path, comm=comm) as session:
            session.run(None, feeds)

    with pytest.raises(ValueError, match=message):
        local.run(1, on_rank)


def test_an_unknown_output_is_refused_and_so_is_a_closed_session(tmp_path: Path) -> None:
    path, feeds = mlp(tmp_path)

    def on_rank(comm: Communicator) -> None:
        session = rankwise.InferenceSession(path, comm=comm)
        with pytest.raises(ValueError, match=r"expected outputs among \['y'\], got \['z'\]"):
            session.run(["z"], feeds)
        session.close()
        session.close()
        with pytest.raises(ValueError, match="closed"):
            session.run(None, feeds)
        comm.barrier()  # the session had a duplicate of its own

    local.run(1, on_rank)


def test_a_mesh_or_directory_for_other_ranks_is_refused(tmp_path: Path) -> None:
    path, _ = mlp(tmp_path)
    shard(path, tmp_path / "two", "tp=2")

    def opening(source: Path, mesh: str | None) -> Callable[[Communicator], None]:
        return lambda comm: rankwise.InferenceSession(source, comm=comm, mesh=mesh).close()

    with pytest.raises(MeshError, match="mesh tp=2 is of 2 ranks, but there are 3"):
        local.run(3, opening(path, "tp=2"))
    with pytest.raises(MeshError, match="sharded for 2 ranks, but there is 1"):
        local.run(1, opening(tmp_path / "two", None))
    with pytest.raises(MeshError, match="made for the mesh tp=2, of 2 ranks"):
        local.run(1, opening(tmp_path / "two" / "rank0.onnx", None))


def test_an_error_of_one_rank_while_loading_is_raised_on_all(tmp_path: Path) -> None:
    path, _ = mlp(tmp_path)
    shard(path, tmp_path / "two", "tp=2")
    (tmp_path / "two" / "rank1.onnx").write_bytes(b"\x08")
    caught: dict[int, str] = {}

    def on_rank(comm: Communicator) -> None:
        try:
            rankwise.InferenceSession(tmp_path / "two", comm=comm)
        except ModelError as error:
            caught[comm.rank] = str(error)

    local.run(2, on_rank)
    assert "rank1.onnx" in caught[0]
    assert caught[0] == caught[1]


@pytest.mark.parametrize(
    "options",
    [
        {"path_or_bytes": b"no model"},
        {"mesh": "tp=3"},
        {"hints": {"w1": "halved"}},
        {"provider_options": [{}, {}]},
        {"path_or_bytes": refused_by_onnxruntime()},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_load_that_all_ranks_give_up_leaves_no_communicator(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = mlp(tmp_path)
    made, freed = list[LocalTransport](), list[LocalTransport]()
    group = LocalTransport.group

    def counted(self: LocalTransport, ranks: tuple[int, ...]) -> LocalTransport:
        made.append(group(self, ranks))
        return made[-1]

    monkeypatch.setattr(LocalTransport, "group", counted)
    monkeypatch.setattr(LocalTransport, "free", lambda self: freed.append(self))

    def on_rank(comm: Communicator) -> None:
        with pytest.raises(ValueError):
            rankwise.InferenceSession(**({"path_or_bytes": path, "comm": comm} | options))
        comm.barrier()

    local.run(2, on_rank)
    assert {id(one) for one in made} == {id(one) for one in freed}
    assert len(made) >= 2


def test_options_of_the_caller_are_kept(tmp_path: Path) -> None:
    path, feeds = mlp(tmp_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2

    def on_rank(comm: Communicator) -> int:
        with rankwise.InferenceSession(path, options, comm=comm) as session:
            session.run(None, feeds)
            return session.threads

    assert local.run(1, on_rank) == [2]


def saved_beside_weights(folder: Path, weight: float, communicates: bool) -> Path:
    """A sum of eight numbers by one weight, which lies in a file of its own."""
    last = 'rankwise.AllReduce <op = "sum"> (h)' if communicates else "Identity(h)"
    made = model(
        f"h = MatMul(x, w) y = {last}",
        "(float[n,8] x) => (float[n,300] y)",
        w=np.full((8, 300), weight, np.float32),
    )
    folder.mkdir()
    onnx.save(made, folder / "model.onnx", save_as_external_data=True, size_threshold=0,
        location="weights")  # fmt: skip
    return folder / "model.onnx"


@pytest.mark.parametrize("second", [False, True])
def test_options_of_two_sessions_do_not_mix_their_weights(second: bool, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    paths = [
        saved_beside_weights(tmp_path / "one", 1, True),
        saved_beside_weights(tmp_path / "two", 2, second),
    ]
    x = np.ones((1, 8), np.float32)
    for path, wanted in zip(paths, (8, 16), strict=True):

        def on_rank(comm: Communicator, path: Path = path) -> Any:
            with rankwise.InferenceSession(path, options, comm=comm) as session:
                return session.run(None, {"x": x})[0]

        (got,) = local.run(1, on_rank)
        assert (got == wanted).all()


def test_a_run_beside_another_is_refused_and_does_not_disturb_it(tmp_path: Path) -> None:
    path, feeds = mlp(tmp_path)
    (want,) = onnxruntime.InferenceSession(path).run(None, feeds)
    may_join = threading.Event()

    def job(comm: Communicator) -> list[Any]:
        session = rankwise.InferenceSession(path, comm=comm)
        if comm.rank == 1:
            assert may_join.wait(30)
            return session.run(None, feeds)
        made: list[Any] = []
        other = threading.Thread(target=lambda: made.extend(session.run(None, feeds)))
        other.start()  # and waits for rank 1
        soon(session._running.locked)
        with pytest.raises(RuntimeError, match="one run at a time"):
            session.run(None, feeds)
        may_join.set()
        other.join(30)
        return made

    for (got,) in local.run(2, job):
        assert_same(got, want)
