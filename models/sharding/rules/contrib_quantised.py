"""Rules of quantised operators.

Elements that are quantised in blocks lie as bytes of [blocks * bytes in a block]; each block has a
scale, and a zero point of some bits, which in a byte has neighbours. So the dim is cut between
blocks, and where zero points are packed, between those whose zero points share a byte.
"""

from __future__ import annotations

from typing import NamedTuple

from onnx import TensorProto

from ...contrib import DOMAIN
from ..axes import Axis, Conflict
from ..rewrite import Call, Local, full
from ..site import Site
from .arithmetic import matmul
from .einsum import apply
from .forms import WHOLE, axis_of, lay, merged, optional, tie_or_whole, width_of
from .indexing import SELECTABLE, local_rows, zero_rows
from .structure import join

SCALE = "...!"
"""A scale or a zero point of a whole tensor, in a rule of einsum."""


class Blocks(NamedTuple):
    """A dim that is quantised in blocks, in each of the forms in which it occurs."""

    blocks: Axis
    """as a scale has it"""
    elements: Axis
    packed: Axis
    """in bytes"""
    zeros: Axis | None
    """zero points in bytes; None where they cannot be cut between blocks"""


def blocked(site: Site, count: int, block: int, bits: int, has_zeros: bool) -> Blocks:
    """Return the axes of `count` blocks of `block` elements of so many bits.

    Raises Conflict where an element may lie in two bytes.
    """
    if 8 % bits:
        raise Conflict(f"elements of {bits} bits lie across bytes")
    each = 8 // bits if has_zeros else 1
    inner, stored, shared = axis_of(block), axis_of(block * bits // 8), axis_of(each)
    site.whole(shared)
    if count % each:
        blocks, zeros = axis_of(count), None
        site.whole(blocks)
    else:
        zeros = axis_of(count // each)
        blocks = merged(zeros, shared)
    return Blocks(blocks, merged(blocks, inner), merged(blocks, stored), zeros)


def matmul_nbits(site: Site) -> None:
    """Cut the columns, or the rows between blocks: their products are then summed."""
    a, y, zeros = site.tensor(0), site.output(), optional(site, 3)
    if site.attribute("weight_prepacked", 0):
        raise Conflict("its weight is packed for one processor")
    width, block = site.attribute("K"), site.attribute("block_size")
    is_packed = zeros is not None and zeros.data_type == TensorProto.UINT8
    k = blocked(site, -(-width // block), block, site.attribute("bits", 4), is_packed)
    n = y.axes[-1]
    lay(site, site.tensor(1), (n, k.blocks, WHOLE), (n, k.packed))
    _by_row(site, 2, n, k.blocks)
    _by_row(site, 3, n, k.zeros if is_packed else k.blocks)
    lay(site, optional(site, 5), (n,))
    site.tie_all(a.axes[:-1], y.axes[:-1])
    site.contract(k.blocks)
    if width % block or site.has(4):
        site.whole(a.axes[-1], k.blocks)
    else:
        tie_or_whole(site, a.axes[-1], k.elements)


def _by_row(site: Site, position: int, n: Axis | None, inner: Axis | None) -> None:
    """Tie what holds something for each block of each column, in one dim or in two."""
    tensor = optional(site, position)
    if tensor is not None and tensor.rank == 1:
        columns = axis_of(1) if n is None else n
        each = tensor.shape[0].over(columns.size)
        assert each is not None
        lay(site, tensor, (merged(columns, inner or Axis(each)),))
    else:
        lay(site, tensor, (n, inner))


def local_nbits(local: Local) -> Call:
    """Give the rows and columns that this rank has, and the bias to one rank's part only."""
    call, rank = without_bias(local, 5), local.rank
    a, y = local.site.tensor(0), local.site.output()
    sizes = {
        "K": full(local.layout.local(a.axes[-1], rank)),
        "N": full(local.layout.local(y.axes[-1], rank)),
    }
    return call._replace(attributes={**call.attributes, **sizes})


def without_bias(local: Local, *positions: int) -> Call:
    """Leave these inputs to the first rank, where the ranks' parts are summed."""
    call = local.unchanged()
    if not local.is_partial or local.rank == 0:
        return call
    inputs = ["" if k in positions else name for k, name in enumerate(call.inputs)]
    while not inputs[-1]:
        inputs.pop()
    return call._replace(inputs=inputs)


def gather_block_quantized(site: Site) -> None:
    """Look rows up: cut the table by row, or between blocks."""
    table, ids, scales, y = site.tensor(0), site.tensor(1), site.tensor(2), site.output()
    axis = site.attribute("gather_axis", 0) % table.rank
    last = table.rank - 1
    if site.attribute("quantize_axis", 1) % table.rank != last or axis == last:
        raise Conflict("its blocks do not lie along the last dim, or that is the one of its rows")
    bits = site.attribute("bits", 4) if table.data_type == TensorProto.UINT8 else 8
    count, block = width_of(scales), site.attribute("block_size", 128)
    k = blocked(site, count, block, bits, site.has(3))
    if width_of(y) != count * block:
        site.whole(k.blocks)
        lay(site, table, (*table.axes[:-1], WHOLE))
    else:
        lay(site, table, (*table.axes[:-1], k.packed))
        site.tie(y.axes[-1], k.elements)
    lay(site, scales, (*table.axes[:-1], k.blocks))
    lay(site, optional(site, 3), (*table.axes[:-1], k.zeros))
    looked_up = (*table.axes[:axis], *ids.axes, *table.axes[axis + 1 : -1])
    for a, b in zip(looked_up, y.axes[:-1], strict=True):
        site.tie(a, b)
    if y.data_type in SELECTABLE:
        site.contract(table.axes[axis], whole_unless_atom=True)
    else:
        site.whole(table.axes[axis])


def local_block_rows(local: Local) -> Call:
    """Look up the rows that this rank has, and give zeros for the others."""
    call = local.unchanged()
    if not local.is_partial:
        return call
    axis = local.site.attribute("gather_axis", 0) % local.site.tensor(0).rank
    ids, foreign = local_rows(local, axis)
    inputs = [call.inputs[0], ids, *call.inputs[2:]]
    found = local.node(call.op_type, inputs, domain=DOMAIN, **call.attributes)
    return zero_rows(local, axis, found, foreign)


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
