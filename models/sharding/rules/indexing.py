"""Rules of operators that look elements up, or put them, by their number."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ...weights import bounds
from ..rewrite import Call, Local, full
from ..site import Array, Site, Tensor, fixed, int64
from .slicing import cut_out

SELECTABLE = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
}
"""Element types that onnxruntime's Where takes; there is none before opset 9."""


def gather(site: Site) -> None:
    """Look rows up: where the table's rows are sharded, each rank adds those that it has."""
    table, ids, y = site.tensor(0), site.tensor(1), site.output()
    axis = site.attribute("axis", 0) % table.rank
    rows = (*table.axes[:axis], *ids.axes, *table.axes[axis + 1 :])
    for a, b in zip(rows, y.axes, strict=True):
        site.tie(a, b)
    if site.opset >= 9 and table.data_type in SELECTABLE:
        site.contract(table.axes[axis], whole_unless_atom=True)
    else:
        site.whole(table.axes[axis])


def local_gather(local: Local, along: str = "axis") -> Call:
    """Look up the rows that this rank has, and give zeros for the others.

    `along` is the attribute that names the dim of the rows.
    """
    call = local.unchanged()
    if not local.is_partial:
        return call
    site = local.site
    axis = site.attribute(along, 0) % site.tensor(0).rank
    ids, foreign = local_rows(local, axis)
    inputs = [call.inputs[0], ids, *call.inputs[2:]]
    rows = local.node(call.op_type, inputs, domain=site.node.domain, **call.attributes)
    return zero_rows(local, axis, rows, foreign)


def local_rows(local: Local, axis: int) -> tuple[str, str]:
    """Return what numbers (input 1) are in this rank's part of a table, and which are not in it.

    A number that is in another rank's part becomes 0.
    """
    table, ids = local.site.tensor(0), local.site.tensor(1)
    total = full(table.shape[axis])
    low, high = bounds(total, local.rank, local.layout.size)
    kind = np.int32 if ids.data_type == TensorProto.INT32 else np.int64
    zero = local.constant(np.zeros((), kind))
    name = local.input(1)
    wrapped = local.node("Add", [name, local.constant(np.array(total, kind))])
    name = local.node("Where", [local.node("Less", [name, zero]), wrapped, name])
    name = local.node("Sub", [name, local.constant(np.array(low, kind))])
    below = local.node("Less", [name, zero])
    beyond = local.node(
        "Not", [local.node("Less", [name, local.constant(np.array(high - low, kind))])]
    )
    foreign = local.node("Or", [below, beyond])
    return local.node("Where", [foreign, zero, name]), foreign


def zero_rows(local: Local, axis: int, rows: str, foreign: str) -> Call:
    """Give zeros for the rows of other ranks."""
    table, ids = local.site.tensor(0), local.site.tensor(1)
    for dim in range(ids.rank, ids.rank + table.rank - axis - 1):
        foreign = _with_last_dim(local, foreign, dim)
    zero = local.constant(np.zeros((), local.dtype))
    return Call("Where", [foreign, zero, rows], {}, domain="")


def _with_last_dim(local: Local, name: str, dim: int) -> str:
    if local.site.opset < 13:
        return local.node("Unsqueeze", [name], axes=[dim])
    return local.node("Unsqueeze", [name, local.constant(int64(dim))])


def gather_elements(site: Site) -> None:
    """Look each element up along one dim; along the others it stands where it is found."""
    data, indices, y = site.tensor(0), site.tensor(1), site.output()
    axis = site.attribute("axis", 0) % data.rank
    site.tie_all(indices.axes, y.axes)
    site.whole(data.axes[axis])
    for dim in set(range(data.rank)) - {axis}:
        _stand_alike(site, data, indices, dim)


def _stand_alike(site: Site, data: Tensor, part: Tensor, dim: int) -> None:
    """Tie a dim of two tensors where one does not stop before the other."""
    if data.shape[dim] == part.shape[dim]:
        site.tie(data.axes[dim], part.axes[dim])
    else:
        site.whole(data.axes[dim], part.axes[dim])


def scatter_elements(site: Site) -> None:
    data, indices, updates = site.tensor(0), site.tensor(1), site.tensor(2)
    axis = site.attribute("axis", 0) % data.rank
    site.tie_all(data.axes, site.output().axes)
    site.tie_all(indices.axes, updates.axes)
    site.whole(data.axes[axis], indices.axes[axis])
    for dim in set(range(data.rank)) - {axis}:
        _stand_alike(site, data, indices, dim)


def gather_nd(site: Site) -> None:
    """The last dim of the indices names places in the dims that follow the batch.

    Of a dim in which they name the same consecutive places in all runs, these are cut out.
    """
    data, indices, y = site.tensor(0), site.tensor(1), site.output()
    batch = site.attribute("batch_dims", 0)
    rest = batch + fixed(indices.shape[-1])
    for dim in range(batch):
        site.tie(data.axes[dim], indices.axes[dim])
    places = _places(site)
    for dim in range(batch, rest):
        axis = data.axes[dim]
        if places is None or axis is None:
            site.whole(axis)
        else:
            part = cut_out(site, axis, int(places[0, dim]), len(places))
            site.tie(part, y.axes[0] if len(places) > 1 else None)
    site.whole(indices.axes[-1])
    if places is None:
        site.tie_all(indices.axes[:-1], y.axes[: indices.rank - 1])
    else:
        site.whole(*indices.axes)
    site.tie_all(data.axes[rest:], y.axes)


def _places(site: Site) -> Array | None:
    """Return the constant places that indices name, a row for each, if they follow each other.

    None where they do not, or name several places in several dims.
    """
    data, indices, value = site.tensor(0), site.tensor(1), site.constant(1)
    if value is None or site.attribute("batch_dims", 0):
        return None
    sizes = data.shape[: value.shape[-1]]
    if not all(size.is_static for size in sizes):
        return None
    rows = value.reshape(-1, value.shape[-1]) % [size.first for size in sizes]
    is_run = indices.rank == 2 and value.shape[-1] == 1 and bool(np.all(np.diff(rows[:, 0]) == 1))
    return rows if len(rows) == 1 or (is_run and len(rows)) else None


def local_gather_nd(local: Local) -> Call:
    """Name the places as this rank's part has them."""
    call, data, places = local.unchanged(), local.site.tensor(0), _places(local.site)
    held = [k for k, axis in enumerate(data.axes) if local.layout.holds(axis)]
    if places is None or not any(k < places.shape[1] for k in held):
        return call
    for k in held:
        kept = local.layout.indices(data.axes[k], local.rank)
        if k < places.shape[1] and kept is not None:
            places = places[np.isin(places[:, k], kept)]
            places[:, k] = np.searchsorted(kept, places[:, k])
    shape = local.site.tensor(1).shape
    target = (*(full(size) for size in shape[:-2]), len(places), places.shape[1])
    target = target if len(shape) > 1 else (places.shape[1],)
    return call._replace(
        inputs=[call.inputs[0], local.constant(places.reshape(target).astype(np.int64))]
    )


def scatter_nd(site: Site) -> None:
    """What is put is whole along the indices, and cut as the data along the dims behind."""
    data, indices, updates = site.tensor(0), site.tensor(1), site.tensor(2)
    named = fixed(indices.shape[-1])
    site.tie_all(data.axes, site.output().axes)
    site.whole(*data.axes[:named], *indices.axes, *updates.axes[: indices.rank - 1])
    if named < data.rank:
        site.tie_all(data.axes[named:], updates.axes)


def tensor_scatter(site: Site) -> None:
    """Write rows into a cache, along one dim; the batch comes first."""
    cache, update = site.tensor(0), site.tensor(1)
    axis = site.attribute("axis", -2) % cache.rank
    site.tie_all(cache.axes, site.output().axes)
    site.whole(cache.axes[axis], update.axes[axis])
    for dim in set(range(cache.rank)) - {axis}:
        site.tie(cache.axes[dim], update.axes[dim])
    if site.has(2):
        site.tie(site.tensor(2).axes[0], cache.axes[0])


def one_hot(site: Site) -> None:
    """The dim that is made is whole."""
    indices, y = site.tensor(0), site.output()
    site.parameters()
    axis = site.attribute("axis", -1) % y.rank
    site.tie_all(indices.axes, (*y.axes[:axis], *y.axes[axis + 1 :]))


def compress(site: Site) -> None:
    """The dim that is thinned out is needed whole; without an axis, all are."""
    x, y = site.tensor(0), site.output()
    site.parameters()
    axis = site.attribute("axis")
    for dim in range(x.rank):
        if axis is None or dim == axis % x.rank:
            site.whole(x.axes[dim])
        else:
            site.tie(x.axes[dim], y.axes[dim])
