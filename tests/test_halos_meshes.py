"""Images cut along their places in every representation, beside stages and replicas, in bodies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import halos
import onnx
import pytest
import ranks
from case import build
from comparison import assert_same
from test_halos import CASES

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.sharding import shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.spread.batch import find_batch
from rankwise.runtime.cli import main

HINTS = {name: {"dim": 2} for name in ("c", "p", "y")}


def answer(place: Path, feeds: ranks.Feeds, comm: Communicator) -> list[object]:
    with InferenceSession(place, ranks.quiet(), comm=comm) as session:
        return list(session.run(None, feeds))


@pytest.mark.parametrize(("mesh", "representation"), [
    ("tp=3", "per-rank"), ("tp=3", "spmd"), ("tp=3", "annotated"), ("tp=2,pp=2", "per-rank"),
    ("tp=2,dp=2", "per-rank"),
])  # fmt: skip
def test_a_mesh_gives_what_one_rank_gives(
    mesh: str, representation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, parts = CASES["there and back"], tmp_path / "parts"
    onnx.save(model, tmp_path / "m.onnx")
    made = shard(tmp_path / "m.onnx", parts, mesh, representation=representation, hints=HINTS)
    assert (made.collectives.get("Send", 0) > 4) == (representation != "annotated")
    feeds = halos.fed(model)
    expected = ranks.whole(model, feeds)
    for outputs in local.run(made.world_size, partial(answer, parts, feeds), ranks.TIMEOUT_S):
        assert_same(outputs, expected)
    if representation == "per-rank":
        assert main(["check", str(parts)]) == 0, capsys.readouterr().out


def test_what_is_made_of_weights_alone_has_halos_on_every_stage(tmp_path: Path) -> None:
    model = build(
        """(float[b,3,12,7] x) => (float[b,3,12,7] y, float[b,3,12,7] z) {
          i = Abs(w)  c = Conv <pads=[1,1,1,1]> (i, k)  e = Relu(x)  y = Add(e, c)
          f = Conv <pads=[1,1,1,1]> (y, k)  g = Relu(f)  z = Add(g, c) }""",
        w=(1, 3, 12, 7), k=(3, 3, 3, 3),
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    hints = {"c": {"dim": 2}}
    made = shard(tmp_path / "m.onnx", tmp_path / "parts", "tp=2,pp=2", hints=hints)
    feeds = halos.fed(model)
    expected = ranks.whole(model, feeds)
    for outputs in local.run(made.world_size, partial(answer, tmp_path / "parts", feeds), 60):
        assert_same(outputs, expected)


def test_replicas_split_no_places_that_a_kernel_goes_over() -> None:
    model = build(
        """(float[1,3,64,64] x) => (float[1,3,64,64] y) {
          y = Conv <pads=[1,1,1,1]> (x, w) }""",
        w=(3, 3, 3, 3),
    )
    assert find_batch(analyse(load(model))).batch is None


def test_halos_go_between_ranks_within_bodies(tmp_path: Path) -> None:
    model = build(
        """(float[b,3,12,7] x) => (float[b,3,12,7] y) {
          two = Constant <value = int64 {2}> ()  go = Constant <value = bool {1}> ()
          h = Relu(x)
          y = Loop (two, go, h) <body = again (int64 n, bool on, float[b,3,12,7] v)
            => (bool also, float[b,3,12,7] u) {
              also = Identity(on)  a = Conv <pads=[1,1,1,1]> (v, k)  u = Tanh(a) }> }""",
        k=(3, 3, 3, 3),
    )
    sharding = halos.compare(model, 3, tmp_path)
    assert sharding.parts[1].collectives["Send"] == 2
