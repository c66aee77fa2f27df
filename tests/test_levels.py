"""When images are cut along their places, and when along their channels."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from case import build

from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, preview, shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import candidates, shardable
from rankwise.models.sharding.hints import to_hints
from rankwise.models.sharding.levels import level_sets, mates
from rankwise.models.sharding.plan import Sharding
from rankwise.models.sharding.prediction import predict
from rankwise.models.sharding.search import Terms

CONV = "Conv <pads=[1,1,1,1]>"
HALF = "MaxPool <kernel_shape=[2,2], strides=[2,2]>"


def first_stage(side: int, width: int) -> onnx.ModelProto:
    """Build the first stage of a VGG."""
    return build(
        f"""(float[b,3,{side},{side}] x) => (float[b,{width},n,o] y) {{
          c = {CONV} (x, w)  r = Relu(c)  d = {CONV} (r, v)  s = Relu(d)  y = {HALF} (s) }}""",
        w=(width, 3, 3, 3), v=(width, width, 3, 3),
    )  # fmt: skip


def two_ends() -> onnx.ModelProto:
    """Build a network of large images and few channels, then of small ones and many."""
    shrink = "MaxPool <kernel_shape=[16,16], strides=[16,16]>"
    return build(
        f"""(float[b,3,1024,1024] x) => (float[b,512,n,o] y) {{
          c = {CONV} (x, w)  r = Relu(c)  d = {CONV} (r, v)  s = Relu(d)  p = {shrink} (s)
          q = {shrink} (p)  e = {CONV} (q, u)  t = Relu(e)  f = {CONV} (t, z)  g = Relu(f)
          h = {CONV} (g, k)  i = Relu(h)  y = {CONV} (i, l) }}""",
        w=(32, 3, 3, 3), v=(32, 32, 3, 3), u=(512, 32, 3, 3), z=(512, 512, 3, 3),
        k=(512, 512, 3, 3), l=(512, 512, 3, 3),
    )  # fmt: skip


def cuts_places(sharding: Sharding) -> list[int]:
    """Return the sizes of the dims of images that are cut."""
    places = mates(sharding.analysis).keys()
    found = {atom.size.first for atom in sharding.choice.layout.sharded if atom in places}
    return sorted(found, reverse=True)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_large_images_are_cut_along_their_places(size: int) -> None:
    model = load(first_stage(1024, 64))
    sharding = plan(model, Mesh(tp=size))
    assert cuts_places(sharding) == [1024, 512]
    assert sharding.collectives.keys() == {"AllGather", "Send"}
    assert max(part.collectives["Send"] for part in sharding.parts) <= 3
    channels = plan(model, Mesh(tp=size), Terms(hints=to_hints({"w": {"dim": 0}})))
    assert cuts_places(channels) == []
    assert predict(sharding).seconds < predict(channels).seconds
    halo, reduced = (each.parts[0].sent for each in (sharding, channels))
    assert halo < 1.01 * reduced * (1 if size < 3 else 0.5)


def test_small_images_of_many_channels_are_cut_along_those() -> None:
    sharding = plan(load(first_stage(16, 512)), Mesh(tp=2))
    assert cuts_places(sharding) == []
    assert sharding.parts[0].collectives["Send"] == 0


def test_images_are_cut_until_they_are_small_and_channels_from_there_on() -> None:
    sharding = plan(load(two_ends()), Mesh(tp=2))
    assert cuts_places(sharding)[0] == 1024
    assert sharding.choice.heaviest < 0.6
    text = str(preview(sharding))
    assert "places 1024" in text
    assert "512 " in text


def test_levels_are_weighed_at_once_from_the_finest_on() -> None:
    analysis = analyse(load(two_ends()))
    possible = [atom for atom, _, _ in shardable(analysis, 2)]
    sets = [[atom.size.first for atom in atoms] for atoms in level_sets(analysis, possible)]
    assert sets == [[1024], [1024, 64], [1024, 64, 4]] * 2
    found = {c.atoms: c for c in candidates(analysis, 2)}
    one, several = (found[atoms] for atoms in list(level_sets(analysis, possible))[:2])
    assert several.gained > one.gained
    assert several.sent < one.sent


def test_a_hint_cuts_a_level() -> None:
    model = load(first_stage(12, 4))
    sharding = plan(model, Mesh(tp=3), Terms(hints=to_hints({"[cy]": {"dim": 2}})))
    assert cuts_places(sharding) == [12, 6]
    assert sharding.parts[1].collectives["Send"] == 2


def test_annotations_which_know_no_halos_cut_channels(tmp_path: Path) -> None:
    onnx.save(first_stage(1024, 64), tmp_path / "m.onnx")
    made = shard(tmp_path / "m.onnx", tmp_path / "annotated", "tp=2", representation="annotated")
    assert "Send" not in made.collectives
    made = shard(tmp_path / "m.onnx", tmp_path / "parts", "tp=2")
    assert made.collectives == {"AllGather": 1, "Send": 2}
