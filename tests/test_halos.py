"""Convolutions cut along the places of an image, and what their kernels read of other parts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import halos
import numpy as np
import onnx
import pytest
import ranks
from case import build
from comparison import assert_same
from halos import image
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rankwise.models.errors import NothingToShard
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.part import Part
from rankwise.models.sharding.site import Site
from rankwise.runtime.cli import main

CASES = {
    "a kernel": image("y = Conv <pads=[1,1,1,1]> (x, w, b)", w=(5, 4, 3, 3), b=(5,)),
    "no padding": image("y = Conv (x, w)", w=(5, 4, 3, 3)),
    "one side padded": image("y = Conv <pads=[2,0,0,1]> (x, w)", w=(5, 4, 3, 3)),
    "a stride": image("y = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)", 13, w=(5, 4, 3, 3)),
    "a stride over the kernel": image("y = Conv <strides=[3,1]> (x, w)", 13, w=(5, 4, 2, 3)),
    "dilation": image("y = Conv <pads=[2,0,2,0], dilations=[2,1]> (x, w)", 11, w=(5, 4, 3, 3)),
    "beyond a neighbour": image("y = Conv <pads=[5,0,5,0]> (x, w)", 9, w=(5, 4, 11, 3)),
    "groups": image("y = Conv <group=2, pads=[1,0,1,0]> (x, w)", w=(6, 2, 3, 3)),
    "SAME_UPPER": image(
        'y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w)', 13, w=(5, 4, 4, 3)
    ),
    "SAME_LOWER": image('y = Conv <auto_pad="SAME_LOWER"> (x, w)', 13, w=(5, 4, 4, 2)),
    "VALID": image('y = Conv <auto_pad="VALID", strides=[2,1]> (x, w)', 13, w=(5, 4, 4, 3)),
    "a transpose": image("y = ConvTranspose <strides=[2,2]> (x, w, b)", w=(4, 5, 2, 2), b=(5,)),
    "a padded transpose": image(
        """y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]> (x, w)""",
        9, w=(4, 5, 3, 3),
    ),
    "a dilated transpose": image(
        "y = ConvTranspose <strides=[2,1], dilations=[2,1], group=2> (x, w)", 9, w=(4, 3, 3, 3)
    ),
    "MaxPool": image("y = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]> (x)", 13),
    "MaxPool of ceil_mode": image(
        "y = MaxPool <kernel_shape=[3,2], strides=[2,2], ceil_mode=1> (x)", 12
    ),
    "AveragePool": image("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (x)", 11),
    "AveragePool that counts padding": image(
        "y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (x)", 11
    ),
    "AveragePool of ceil_mode": image(
        "y = AveragePool <kernel_shape=[3,2], strides=[2,2], ceil_mode=1> (x)", 12
    ),
    "nearest": image('y = Resize <mode="nearest"> (x, , f)', 7, f=np.float32([1, 1, 2, 1])),
    "linear": image('y = Resize <mode="linear"> (x, , f)', 7, f=np.float32([1, 1, 4, 2])),
    "cubic": image('y = Resize <mode="cubic"> (x, , f)', 9, f=np.float32([1, 1, 2, 2])),
    "linear to sizes": image(
        'y = Resize <mode="linear", axes=[3,2]> (x, , , s)', 7, s=np.array([14, 28])
    ),
    "nearest of an old kind": image(
        """y = Resize <mode="nearest", nearest_mode="ceil",
                       coordinate_transformation_mode="asymmetric"> (x, , f)""",
        7, f=np.float32([1, 1, 2, 1]),
    ),
    "a residual block": image(
        """c = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)  r = Relu(c)
           d = Conv <pads=[1,1,1,1]> (r, v, b)  e = Conv <strides=[2,2]> (x, u)  y = Add(d, e)""",
        13, w=(5, 4, 3, 3), v=(6, 5, 3, 3), b=(6,), u=(6, 4, 1, 1),
    ),
    "there and back": image(
        """c = Conv <pads=[1,1,1,1]> (x, w)
           p = MaxPool <kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,1]> (c)
           d = Conv <pads=[1,1,1,1]> (p, v)
           u = ConvTranspose <strides=[2,2], pads=[0,0,0,1]> (d, t)
           z = Concat <axis=1> (u, c)  y = Conv <pads=[1,1,1,1]> (z, s)""",
        14, w=(4, 4, 3, 3), v=(5, 4, 3, 3), t=(5, 4, 2, 2), s=(3, 8, 3, 3),
    ),
    "a mean of all places": image(
        "c = Conv <pads=[1,1,1,1]> (x, w)  y = GlobalAveragePool(c)", 11, w=(5, 4, 3, 3)
    ),
    "the largest of all places": image(
        "c = Conv <pads=[1,1,1,1]> (x, w)  y = GlobalMaxPool(c)", 11, w=(5, 4, 3, 3)
    ),
    "a mean of each column": image(
        "c = Conv <pads=[1,1,1,1]> (x, w)  y = ReduceMean (c, d)", 11, w=(5, 4, 3, 3), d=[2]
    ),
    "one dim": build(
        """(float[b,4,13] fed) => (float[b,5,n] y) {
          x = Identity(fed)  y = Conv <pads=[2,2], dilations=[2]> (x, w) }""",
        w=(5, 4, 3),
    ),
    "three dims": build(
        """(float[b,2,9,5,4] x) => (float[b,3,n,o,p] y) {
          c = Conv <pads=[1,0,1,1,0,1]> (x, w)
          y = MaxPool <kernel_shape=[2,2,1], strides=[2,1,1]> (c) }""",
        w=(3, 2, 3, 2, 3),
    ),
    "integers": build(
        """(uint8[b,4,12,7] fed) => (int32[b,5,n,o] y) {
          x = Identity(fed)  y = ConvInteger <pads=[1,1,1,1]> (x, w, z) }""",
        w=np.arange(180, dtype=np.uint8).reshape(5, 4, 3, 3), z=np.uint8(7),
    ),
    "an activation": image(
        'y = .FusedConv <activation="Relu", pads=[1,1,1,1]> (x, w, b)', w=(5, 4, 3, 3), b=(5,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", (1, 2, 3, 4))
@pytest.mark.parametrize("name", CASES)
def test_parts_of_an_image_give_what_the_whole_gives(name: str, size: int, tmp_path: Path) -> None:
    sharding = halos.compare(CASES[name], size, tmp_path)
    assert all(_is_slid(site) for site in sharding.analysis.sites)
    for part in sharding.parts:
        assert {"Send", "Recv"} >= part.collectives.keys() - {"AllGather", "AllReduce"}
        assert part.collectives.total() - _messages(part) == 1  # y alone is brought together


def _is_slid(site: Site) -> bool:
    """Say whether a node goes over the height, or its places pass in another way."""
    kernels = {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "MaxPool", "Resize"}
    is_over = any(window.dim == halos.HEIGHT for window in site.windows)
    return is_over or site.node.op_type not in kernels


def _messages(part: Part) -> int:
    return part.collectives["Send"] + part.collectives["Recv"]


def test_the_other_dim_is_cut_as_well(tmp_path: Path) -> None:
    sharding = halos.compare(CASES["there and back"], 3, tmp_path, dim=3)
    assert sharding.parts[1].collectives["Send"] > 2


@st.composite
def chains(draw: st.DrawFn) -> tuple[onnx.ModelProto, int]:
    """Draw a chain of kernels that makes an image of at least as many rows as ranks."""
    size, height = draw(st.sampled_from([3, 4, 2, 1])), draw(st.integers(7, 19))
    lines, weights, rows = ["x0 = Identity(x)"], dict[str, Any](), height
    for k in range(draw(st.integers(1, 3))):
        taps, stride, gap = draw(st.integers(1, 4)), draw(st.integers(1, 3)), 1
        op = draw(st.sampled_from(["Conv", "Conv", "MaxPool", "AveragePool", "ConvTranspose"]))
        if op == "Conv":
            gap = draw(st.integers(1, 2))
        span = (taps - 1) * gap + 1
        before, after = draw(st.integers(0, span - 1)), draw(st.integers(0, span - 1))
        common = f"strides=[{stride},1], pads=[{before},0,{after},0]"
        padded = rows + before + after
        if op == "ConvTranspose":
            rows = (rows - 1) * stride + span - before - after
        else:
            rows = (padded - span) // stride + 1
        assume(size <= rows and padded >= span)
        group = draw(st.sampled_from([1, 2, 4]))
        if op.startswith("Conv"):
            weights[f"w{k}"] = (4, 4 // group, taps, 1)
            common += f", group={group}, dilations=[{gap},1]"
            call = f"{op} <{common}> (x{k}, w{k})"
        else:
            counted = ", count_include_pad=1" if op == "AveragePool" and group > 1 else ""
            call = f"{op} <kernel_shape=[{taps},1], {common}{counted}> (x{k})"
        lines += [f"c{k} = {call}", f"x{k + 1} = Tanh(c{k})"]
    lines.append(f"y = Identity(x{k + 1})")
    return image(" ".join(lines), height, **weights), size


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chains())
def test_random_chains_of_kernels_give_what_the_whole_gives(
    drawn: tuple[onnx.ModelProto, int],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        halos.compare(*drawn, Path(folder))


def test_rows_of_the_halo_are_all_that_is_sent() -> None:
    model = build(
        """(float[1,8,64,32] x) => (float[1,8,64,32] y) {
          h = Relu(x)  c = Conv <pads=[1,1,1,1]> (h, w)  d = Conv <pads=[2,2,2,2]> (c, v)
          y = Relu(d) }""",
        w=(8, 8, 3, 3), v=(8, 8, 5, 5),
    )  # fmt: skip
    sharding = halos.cut(model, 4)
    row = 8 * 32 * 4
    sent = [[t.nbytes for t in part.moved if t.op_type == "Send"] for part in sharding.parts]
    inner, outer = [row, row, 2 * row, 2 * row], [row, 2 * row]
    assert sent == [outer, inner, inner, outer]
    received = [
        list(next(a.ints for a in node.attribute if a.name == "shape"))
        for node in sharding.parts[1].nodes
        if node.op_type == "Recv"
    ]
    assert received == [[1, 8, 1, 32]] * 2 + [[1, 8, 2, 32]] * 2


def test_what_is_fed_is_read_where_it_is() -> None:
    model = build("(float[2,1,9,5] x) => (float[2,1,9,5] y) { y = Conv <pads=[1,1,1,1]> (x, w) }",
                  w=(1, 1, 3, 3))  # fmt: skip
    assert halos.cut(model, 3).collectives == {"AllGather": 1}


def test_images_of_open_size_stay_whole_and_the_report_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "(float[b,1,h,w] x) => (float[b,1,n,o] y) { y = Conv (x, k) }"
    model = build(text, k=(1, 1, 3, 3))
    analysis = analyse(load(model))
    assert not analysis.sites[0].windows
    with pytest.raises(NothingToShard):
        plan(load(model), Mesh(tp=2))
    onnx.save(model, tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    assert "its image is of a size that is known only when the model runs" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(("body", "reason"), [
    ("y = Conv <pads=[3,0,0,0]> (x, w)", "its padding is as wide as its kernel"),
    ("""y = AveragePool <kernel_shape=[3,1], strides=[2,1], pads=[1,0,0,0], ceil_mode=1,
                         count_include_pad=1> (x)""", "its mean counts padding"),
    ("y = ConvTranspose <strides=[4,1]> (x, v)", "it makes places of nothing"),
    ("y = Resize (x, , f)", "its factor is no power of two"),
    ("""y = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (x, , g)""",
     "places by align_corners depend on the whole image"),
])  # fmt: skip
def test_what_no_part_can_give_is_whole_for_a_reason(
    body: str, reason: str, tmp_path: Path
) -> None:
    model = image(
        f"r = Relu(x) {body.replace('(x', '(r')}", 11, w=(4, 4, 3, 3), v=(4, 4, 3, 1),
        f=np.float32([1, 1, 3, 1]), g=np.float32([1, 1, 2, 1]),
    )  # fmt: skip
    site = analyse(load(model)).sites[-1]
    assert all(window.dim != halos.HEIGHT for window in site.windows)
    assert site.note.startswith(reason)
    halos.compare(model, 3, tmp_path)


def test_half_precision_halos_are_exact(tmp_path: Path) -> None:
    model = build(
        """(float16[2,4,12,7] x) => (float16[2,5,12,7] y) {
          r = Relu(x)  y = Conv <pads=[1,1,1,1]> (r, w) }""",
        w=np.float16(np.random.default_rng(0).standard_normal((5, 4, 3, 3))),
    )
    feeds = halos.fed(model)
    (expected,) = ranks.whole(model, feeds)
    for (got,) in ranks.run(halos.cut(model, 3), feeds, tmp_path):
        assert_same([got.astype(np.float32)], [expected.astype(np.float32)], (2e-3, 2e-3))


def test_the_parts_of_a_u_net_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(CASES["there and back"], tmp_path / "model.onnx")
    hints = {name: {"dim": 2} for name in ("c", "p")}
    shard(tmp_path / "model.onnx", tmp_path / "parts", "tp=3", hints=hints)
    assert main(["check", str(tmp_path / "parts")]) == 0
    assert "of 3 ranks fit" in capsys.readouterr().out
