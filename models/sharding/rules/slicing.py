"""The rule of Slice: a part of a dim is cut out of it, where its place is the same in all runs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..axes import Axis, Conflict, Size, cut_at
from ..rewrite import Call, Local, entries, full, rescale
from ..site import Site, Tensor


def slice_(site: Site) -> None:
    x, y = site.tensor(0), site.output()
    axes, steps = _slice_axes(site), _slice_steps(site)
    site.parameters()
    for dim in range(x.rank):
        if dim not in axes or (x.shape[dim] == y.shape[dim] and steps[axes.index(dim)] == 1):
            site.tie(x.axes[dim], y.axes[dim])
        elif (start := _slice_start(site, axes.index(dim), dim)) is not None:
            _cut_slice(site, dim, start)
        else:
            site.whole(x.axes[dim])


def _slice_vector(site: Site, position: int, name: str) -> list[int | None] | None:
    given = site.attribute(name)
    if given is not None:
        return list(given)
    if not site.has(position):
        return None
    return entries(site.tensor(position), full(site.tensor(position).shape[0]))


def _slice_axes(site: Site) -> list[int]:
    given = _slice_vector(site, 3, "axes")
    if given is None:
        starts = _slice_vector(site, 1, "starts")
        assert starts is not None
        given = list(range(len(starts)))
    if None in given:
        raise Conflict("the axes are computed when the model runs")
    return [axis % site.tensor(0).rank for axis in given if axis is not None]


def _slice_steps(site: Site) -> list[int | None]:
    return _slice_vector(site, 4, "steps") or [1] * len(_slice_axes(site))


def _slice_start(site: Site, place: int, dim: int) -> Size | None:
    """Return where a slice begins, None where it is not the same place in every run."""
    size = site.tensor(0).shape[dim]
    starts = _slice_vector(site, 1, "starts")
    if starts is None or starts[place] is None or _slice_steps(site)[place] != 1:
        return None
    if not size.is_static or not site.output().shape[dim].is_static:
        return None
    start = slice(starts[place], None).indices(size.first)[0]
    return Size(start, start)


def _cut_slice(site: Site, dim: int, start: Size) -> None:
    x, y = site.tensor(0).axes[dim], site.output().axes[dim]
    length = site.output().shape[dim]
    if x is None or not length.first:
        return
    site.tie(cut_out(site, x, start.first, length.first), y)


def cut_out(site: Site, axis: Axis, start: int, length: int) -> Axis:
    """Cut a part out of an axis of fixed size, and drop the rest.

    Raises Conflict where the axis has no border there.
    """
    rest = axis.size.first - start - length
    sizes = [Size(size, size) for size in (start, length, rest) if size]
    parts = cut_at(axis, sizes)
    kept = parts.pop(1 if start else 0)
    site.dropped += parts
    return kept


def local_slice(local: Local) -> Call:
    """Replace the bounds of sharded dims by those within this rank's part."""
    x, y = local.site.tensor(0), local.site.output()
    axes = _slice_axes(local.site)
    starts, ends = dict[int, int](), dict[int, int]()
    for place, dim in enumerate(axes):
        start = _slice_start(local.site, place, dim)
        axis = x.axes[dim]
        if axis is None or not local.layout.holds(axis) or start is None:
            continue
        kept = local.layout.indices(axis, local.rank)
        assert kept is not None
        starts[place] = int(np.searchsorted(kept, start.first))
        ends[place] = int(np.searchsorted(kept, start.first + y.shape[dim].first))
    call = local.unchanged()
    if not starts:
        return call
    if local.site.opset < 10:
        given = {name: list(call.attributes[name]) for name in ("starts", "ends")}
        for place in starts:
            given["starts"][place], given["ends"][place] = starts[place], ends[place]
        return call._replace(attributes={"axes": axes, **given})
    inputs = list(call.inputs)
    for position, fixed in ((1, starts), (2, ends)):
        known = local.site.constant(position)
        kind = np.int32 if _is_int32(local.site.tensor(position)) else np.int64
        inputs[position] = rescale(local, inputs[position], known, fixed, {}, len(axes), kind)
    return call._replace(inputs=inputs)


def _is_int32(tensor: Tensor) -> bool:
    return tensor.data_type == TensorProto.INT32
