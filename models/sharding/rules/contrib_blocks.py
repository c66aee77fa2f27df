"""Rules of what is quantised in blocks.

Elements lie as bytes of [blocks * bytes in a block]; each block has a scale, and a zero point of
some bits, which shares its byte with others. So the dim is cut between blocks, and where zero
points fill their bytes, between these. Where they do not, a rank of a matrix product brings its
own into bytes anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from ..axes import Axis, Conflict
from ..rewrite import Call, Local, full
from ..site import Site, Tensor, int64
from .forms import WHOLE, axis_of, lay, merged, optional, tie_or_whole, width_of, without_bias
from .indexing import SELECTABLE, local_gather


class Blocks(NamedTuple):
    """A dim that is quantised in blocks, in each of the forms in which it occurs."""

    blocks: Axis
    """as a scale has it"""
    elements: Axis
    packed: Axis
    """in bytes"""
    zeros: Axis | None
    """zero points in bytes; None where the last byte is not full"""


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
    else:
        zeros = axis_of(count // each)
        blocks = merged(zeros, shared)
    return Blocks(blocks, merged(blocks, inner), merged(blocks, stored), zeros)


def matmul_nbits(site: Site) -> None:
    """Cut the columns, or the rows between blocks: their products are then summed."""
    a, y, zeros = site.tensor(0), site.output(), _packed_zeros(site)
    if site.attribute("weight_prepacked", 0):
        raise Conflict("its weight is packed for one processor")
    width, block = site.attribute("K"), site.attribute("block_size")
    k = blocked(site, -(-width // block), block, site.attribute("bits", 4), zeros is not None)
    n = y.axes[-1]
    lay(site, site.tensor(1), (n, k.blocks, WHOLE), (n, k.packed))
    _by_row(site, 2, n, k.blocks)
    _by_row(site, 3, n, k.blocks if zeros is None else k.zeros)
    lay(site, optional(site, 5), (n,))
    site.tie_all(a.axes[:-1], y.axes[:-1])
    site.contract(k.blocks)
    in_one_dim = zeros is not None and zeros.rank == 1 and k.zeros is None
    if width % block or site.has(4) or in_one_dim:
        site.whole(a.axes[-1], k.blocks)
    else:
        tie_or_whole(site, a.axes[-1], k.elements)


def _packed_zeros(site: Site) -> Tensor | None:
    """Return zero points that lie in bytes; they may also be numbers, or absent."""
    zeros = optional(site, 3)
    return zeros if zeros is not None and zeros.data_type == TensorProto.UINT8 else None


def _by_row(site: Site, position: int, n: Axis | None, inner: Axis | None) -> None:
    """Tie what holds something for each block of each column, in one dim or in two."""
    tensor = optional(site, position)
    if tensor is not None and tensor.rank == 1:
        columns = axis_of(1) if n is None else n
        each = tensor.shape[0].over(columns.size)
        if each is None:
            raise Conflict(f"{tensor.name} has no whole number of entries for each column")
        lay(site, tensor, (merged(columns, inner or Axis(each)),))
    else:
        lay(site, tensor, (n, inner))


def local_nbits(local: Local) -> Call:
    """Give the rows and columns that this rank has, and the bias to one rank's part only."""
    call, rank = without_bias(local, 5), local.rank
    a, y = local.site.tensor(0), local.site.output()
    if _cuts_bytes(local):
        inputs = list(call.inputs)
        inputs[3] = _repacked(local)
        call = call._replace(inputs=inputs)
    sizes = {
        "K": full(local.layout.local(a.axes[-1], rank)),
        "N": full(local.layout.local(y.axes[-1], rank)),
    }
    return call._replace(attributes={**call.attributes, **sizes})


def _cuts_bytes(local: Local) -> bool:
    """Say whether blocks are cut between zero points that share a byte."""
    zeros = _packed_zeros(local.site)
    return local.is_partial and zeros is not None and not local.layout.holds(zeros.axes[-1])


def _repacked(local: Local) -> str:
    """Bring the zero points of this rank's blocks into bytes of their own.

    They are constants, so that onnxruntime does this once, as it loads the graph.
    """
    bits = local.site.attribute("bits", 4)
    each = 8 // bits
    kept = local.layout.indices(local.site.tensor(1).axes[1], local.rank)
    assert kept is not None
    places = (1 << bits * np.arange(each)).astype(np.int32)
    order = np.pad(kept, (0, -len(kept) % each), mode="edge")
    name = local.node("Cast", [local.input(3)], to=TensorProto.INT32)
    name = local.node("Reshape", [name, local.constant(int64(0, 0, 1))])
    name = local.node("Div", [name, local.constant(places)])
    name = local.node("Mod", [name, local.constant(np.array(1 << bits, np.int32))])
    name = local.node("Reshape", [name, local.constant(int64(0, -1))])
    name = local.node("Gather", [name, local.constant(order)], axis=1)
    name = local.node("Reshape", [name, local.constant(int64(0, -1, each))])
    name = local.node("MatMul", [name, local.constant(places)])
    return local.node("Cast", [name], to=TensorProto.UINT8)


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
    if width_of(y) != count * block or k.zeros is None:
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
    return local_gather(local, along="gather_axis")
