"""Rules of quantized tensors: scales and zero points are of a tensor, of a dim, or of blocks."""

from __future__ import annotations

from ..axes import Axis, Size, product
from ..site import Site, Tensor
from .einsum import apply, product_terms


def of_channels(site: Site, position: int, channels: Axis | None) -> None:
    """Tie a vector of one number per channel; a single number has no axis, and passes."""
    if site.has(position):
        for axis in site.tensor(position).axes:
            site.tie(axis, channels)


def quantize(site: Site) -> None:
    """QuantizeLinear and DequantizeLinear: every element by itself, its scale beside it."""
    x = site.tensor(0)
    site.tie_all(x.axes, site.output().axes)
    for position in (1, 2):
        if site.has(position):
            _tie_scale(site, x, site.tensor(position))


def _tie_scale(site: Site, x: Tensor, scale: Tensor) -> None:
    axis = site.attribute("axis", 1)
    if scale.rank == x.rank and site.attribute("block_size", 0):
        for dim, (a, b) in enumerate(zip(x.axes, scale.axes, strict=True)):
            if dim == axis % x.rank:
                _tie_blocks(site, a, b, x.shape[dim])
            else:
                site.tie(a, b)
    elif scale.rank == 1 and scale.axes[0] is not None:
        site.tie(x.axes[axis % x.rank], scale.axes[0])


def _tie_blocks(site: Site, axis: Axis | None, blocks: Axis | None, size: Size) -> None:
    """A dim is so many blocks, and is cut at their borders; a last one may be shorter."""
    length = site.attribute("block_size")
    if size.first % length or size.second % length:
        site.whole(axis, blocks)
    else:
        inner = Axis(Size(length, length))
        site.tie(axis, product((blocks, inner)))
        site.whole(inner)


def matmul_integer(site: Site) -> None:
    left, right, made = product_terms(site.tensor(0), site.tensor(1))
    apply(site, [left, right, "*", "*"], [made])
    _tie_rows(site, 2, site.tensor(0))
    _tie_columns(site, 3, site.tensor(1))


def qlinear_matmul(site: Site) -> None:
    """What is summed is rounded, once: the dim that is summed over is needed whole."""
    a, b = site.tensor(0), site.tensor(3)
    left, right, made = product_terms(a, b)
    apply(site, [f"{left}!", "*", "*", right, "*", "*", "*", "*"], [made])
    for position in (1, 2):
        _tie_rows(site, position, a)
    for position in (4, 5):
        _tie_columns(site, position, b)
    for position in (6, 7):
        _tie_rows(site, position, site.output())


def _tie_rows(site: Site, position: int, of: Tensor) -> None:
    """Tie a scale or zero point of each row: a vector, or of the tensor's own rank."""
    if site.has(position):
        found = site.tensor(position)
        site.tie_all(found.axes if found.rank != 1 else (*found.axes, None), of.axes)


def _tie_columns(site: Site, position: int, of: Tensor) -> None:
    if site.has(position):
        site.tie_all(site.tensor(position).axes, of.axes)
