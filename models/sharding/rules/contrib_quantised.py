"""Rules of integers with one scale for a tensor, or one for each index of a dim."""

from __future__ import annotations

from ..axes import Conflict
from ..rewrite import Call, Local
from ..site import Site
from .arithmetic import matmul
from .einsum import apply
from .forms import lay, optional, without_bias
from .structure import join

SCALE = "...!"
"""A scale or a zero point of a whole tensor, in a rule of einsum."""


def matmul_integer_to_float(site: Site) -> None:
    """Cut the columns, with their scales and zero points, or the rows."""
    matmul(site)
    _by_column(site, 3, 5, 6)


def _by_column(site: Site, *positions: int) -> None:
    """Tie what holds one number for all columns, or one for each."""
    for tensor in (optional(site, position) for position in positions):
        if tensor is not None and tensor.rank:
            site.tie(tensor.axes[-1], site.output().axes[-1])


def dynamic_quantize_matmul(site: Site) -> None:
    """Cut the columns. One scale is found for all of the first input, so it is needed whole."""
    matmul(site)
    site.whole(*site.tensor(0).axes)
    _by_column(site, 2, 3, 4)


def quantised_gemm(site: Site) -> None:
    """Cut rows or columns of either side; the inner dim, where the result is not rounded."""
    left = "km" if site.attribute("transA", 0) else "mk"
    right = "nk" if site.attribute("transB", 0) else "kn"
    rounded = "!" if site.has(7) else ""
    left, right = (term.replace("k", f"k{rounded}") for term in (left, right))
    apply(site, [left, SCALE, SCALE, right], ["mn"])
    _by_column(site, 4, 5, 6)


def quantise(site: Site) -> None:
    """Go to integers and back, by one scale or by one for each index of a dim."""
    x = site.tensor(0)
    site.tie_all(x.axes, site.output().axes)
    for tensor in filter(None, site.inputs[1:]):
        lay(site, tensor, (), (x.axes[site.attribute("axis", 1) % x.rank],))


def concat(site: Site) -> None:
    """Concatenate inputs that have a scale and a zero point each."""
    join(site, [site.tensor(k) for k in range(2, len(site.inputs), 3)])


def softmax(site: Site) -> None:
    x = site.tensor(0)
    site.tie_all(x.axes, site.output().axes)
    site.parameters()
    axis = site.attribute("axis", -1) % x.rank
    site.whole(*(x.axes[axis:] if site.attribute("opset") < 13 else [x.axes[axis]]))


def pool(site: Site) -> None:
    if site.attribute("channels_last", 0):
        raise Conflict("its channels come last")
    apply(site, ["bc...!", SCALE, SCALE, SCALE, SCALE], ["bc..."])


def local_integer_to_float(local: Local) -> Call:
    return without_bias(local, 6)


def local_gemm(local: Local) -> Call:
    return without_bias(local, 6)
