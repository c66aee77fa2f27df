"""Rules of operators on images: [batch, channels, height, width], or of more dims."""

from __future__ import annotations

import numpy as np

from ..axes import Axis, Conflict, Size, product, unify
from ..halo import run, sliding
from ..rewrite import Call, Local, entries, local_sizes, rescale
from ..site import Site, Tensor
from ..window import Enlargement, Window
from .einsum import apply
from .sliding import known, pass_or_whole


def depth_to_space(site: Site) -> None:
    """Channels are blocks of pixels: c = (block * block * inner), or inner first."""
    _blocks(site, site.tensor(0), site.output())


def space_to_depth(site: Site) -> None:
    _blocks(site, site.output(), site.tensor(0))


def _blocks(site: Site, deep: Tensor, wide: Tensor) -> None:
    length = site.attribute("blocksize")
    block = [Axis(Size(length, length)) for _ in range(2)]
    site.tie(deep.axes[0], wide.axes[0])
    is_inner_last = site.attribute("mode", "DCR") == "DCR"
    channels = (*block, wide.axes[1]) if is_inner_last else (wide.axes[1], *block)
    site.tie(deep.axes[1], product(channels))
    for dim in (2, 3):
        site.tie(wide.axes[dim], product((deep.axes[dim], block[dim - 2])))
    site.whole(*block)


def resize(site: Site) -> None:
    """A dim that keeps its size passes, and one that is enlarged by a power of two."""
    x, y = site.tensor(0), site.output()
    site.parameters()
    kept = _kept(site)
    for dim in range(x.rank):
        if dim in kept:
            site.tie(x.axes[dim], y.axes[dim])
        else:
            pass_or_whole(site, dim, _enlarged(site, dim))


BESIDE = {"nearest": 1, "linear": 1, "cubic": 2}
"""Places beside one that are read for those that it becomes."""

UNMOVED = {"asymmetric", "half_pixel", "pytorch_half_pixel"}
"""Transformations by which a place becomes the same places wherever an image begins."""


def _enlarged(site: Site, dim: int) -> Window | str:
    """Return how a dim is enlarged, or why a rank's part would not give the same.

    Powers of two are such that coordinates are exact.
    """
    axes, scales = known(site, dim), _scales(site)
    if isinstance(axes, str):
        return axes
    if site.attribute("antialias", 0) or site.opset < 11:
        return "its filter depends on its version"
    if site.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "its factor follows from the size of all dims"
    given, made = axes
    factor, rest = divmod(made.size.first, given.size.first)
    listed = [d % site.tensor(0).rank for d in site.attribute("axes", range(site.tensor(0).rank))]
    asked = factor if scales is None else scales[listed.index(dim)]
    is_exact = not rest and factor == asked and factor & (factor - 1) == 0
    mode = site.attribute("coordinate_transformation_mode", "half_pixel")
    if not is_exact:
        return "its factor is no power of two"
    if mode not in UNMOVED:
        return f"places by {mode} depend on the whole image"
    return Enlargement(dim, given, made, factor, BESIDE[site.attribute("mode", "nearest")])


def _kept(site: Site) -> set[int]:
    """Return the dims that no place is moved along: their factor is 1."""
    x, y = site.tensor(0), site.output()
    same = {dim for dim in range(x.rank) if x.shape[dim] == y.shape[dim]}
    listed = site.attribute("axes", list(range(x.rank)))
    listed = [dim % x.rank for dim in listed]
    if site.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        return same - set(listed)
    scales = _scales(site)
    if scales is None:
        is_alike = site.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
        return same if is_alike else same - set(listed)
    moved = {dim for dim, scale in zip(listed, scales, strict=True) if scale != 1}
    return same - moved


def _scales(site: Site) -> list[float] | None:
    """Return the factors, None where sizes are given. Raises Conflict for unknown ones."""
    given = site.attribute("scales")
    position = 1 if site.node.op_type == "Upsample" or site.opset < 11 else 2
    if given is None and site.has(position) and site.tensor(position).shape != (Size(0, 0),):
        value = site.constant(position)
        if value is None:
            raise Conflict("the factors are computed when the model runs")
        given = value.tolist()
    return None if given is None else list(given)


def local_resize(local: Local) -> Call:
    """Give this rank's sizes for those of the whole tensor."""
    call, window = _with_sizes(local), sliding(local.site.windows, local.layout)
    if window is None:
        return call
    made = run(local.layout, window.made, local.rank)
    before, _ = window.edges(made)
    name = local.node(call.op_type, call.inputs, **call.attributes)
    places = np.arange(before, before + len(made))
    return Call("Gather", [name, local.constant(places)], {"axis": window.dim})


def _with_sizes(local: Local) -> Call:
    """Give the sizes that this rank makes, those that it leaves out among them."""
    call, y = local.unchanged(), local.site.output()
    if not local.site.has(3):
        return call
    given = local.site.tensor(3)
    axes = [dim % y.rank for dim in call.attributes.get("axes", range(y.rank))]
    target = Tensor("", 0, (), tuple(y.axes[dim] for dim in axes))
    fixed, ratios = local_sizes(local, target, entries(given, len(target.axes)))
    if window := sliding(local.site.windows, local.layout):
        made = run(local.layout, window.made, local.rank)
        fixed[axes.index(window.dim)] = len(made) + sum(window.edges(made))
    if not fixed and not ratios:
        return call
    vector = rescale(local, local.input(3), given.value, fixed, ratios, len(target.axes))
    return call._replace(inputs=[*call.inputs[:3], vector])


def center_crop_pad(site: Site) -> None:
    """Dims that are not named pass; where none are named, all may be cropped."""
    x, y = site.tensor(0), site.output()
    site.parameters()
    named = [dim % x.rank for dim in site.attribute("axes", list(range(x.rank)))]
    for dim in range(x.rank):
        if dim in named:
            site.whole(x.axes[dim], y.axes[dim])
        else:
            site.tie(x.axes[dim], y.axes[dim])


def grid_sample(site: Site) -> None:
    """Each place of the grid is one of the output; it may point anywhere in the image."""
    places = "opq"[: site.tensor(0).rank - 2]
    image = "".join(f"{letter}!" for letter in "hwd"[: len(places)])
    apply(site, [f"bc{image}", f"b{places}r!"], [f"bc{places}"])


def column_to_image(site: Site) -> None:
    """Channels are the outer factor of a dim of channels * block."""
    x, y = site.tensor(0), site.output()
    site.parameters()
    block = site.constant(2)
    if block is None:
        raise Conflict("the block is known only when the model runs")
    count = int(np.prod(block))
    inner = Axis(Size(count, count))
    site.tie(x.axes[0], y.axes[0])
    channels = product((y.axes[1], inner))
    if x.axes[1] is not None and channels is not None:
        unify(x.axes[1], channels)
    site.whole(inner, *x.axes[2:], *y.axes[2:])
