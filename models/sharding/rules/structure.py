"""Rules of operators that move elements, and of those that read sizes.

One convention for integers: every vector of sizes in a sharded graph holds the sizes of the whole
tensor. A Shape of a sharded tensor is made global where it is read, and a Reshape or Expand makes
its target local where it uses it. So one vector may serve sharded and whole tensors alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from onnx import TensorProto

from ..axes import ONE, Axis, Conflict, Size, concatenation, cut_at, find, leaves, unify, unify_rows
from ..rewrite import Call, Local, entries, full, local_sizes, rescale
from ..site import Site, Tensor, int64


def reshape(site: Site) -> None:
    """Both sides are the same elements in the same order: a refinement of one another."""
    x, y = site.tensor(0), site.output()
    site.parameters()
    if any(0 in size for size in y.shape):
        raise Conflict("it has no elements")
    unify_rows(_row(x), _row(y))


def _row(tensor: Tensor) -> list[Axis]:
    return [leaf for axis in tensor.axes if axis is not None for leaf in leaves(axis)]


def local_reshape(local: Local) -> Call:
    x, y = local.site.tensor(0), local.site.output()
    if not any(local.layout.holds(axis) for axis in y.axes):
        return local.unchanged()
    target = [_reshape_entry(local, x, y, dim) for dim in range(y.rank)]
    if target.count(-1) <= 1:
        return Call("Reshape", [local.input(0), local.constant(int64(*target))], {})
    given = local.site.tensor(1)
    fixed, ratios = local_sizes(local, y, entries(given, y.rank))
    vector = rescale(local, local.input(1), given.value, fixed, ratios, y.rank)
    return Call("Reshape", [local.input(0), vector], local.unchanged().attributes)


def _reshape_entry(local: Local, x: Tensor, y: Tensor, dim: int) -> int:
    """Return the size of a dim where it is known, 0 where it is that of the input, else -1."""
    share = _local_dim(local, y, dim)
    if share.is_static:
        return share.first
    return 0 if dim < x.rank and _same(x.axes[dim], y.axes[dim]) else -1


def _local_dim(local: Local, tensor: Tensor, dim: int) -> Size:
    """Return the size of a dim on this rank; 0 and 1 have no axis, and stay."""
    axis = tensor.axes[dim]
    return tensor.shape[dim] if axis is None else local.layout.local(axis, local.rank)


def _same(a: Axis | None, b: Axis | None) -> bool:
    if a is None or b is None:
        return a is b
    return [find(leaf) for leaf in leaves(a)] == [find(leaf) for leaf in leaves(b)]


def same_dims(site: Site) -> None:
    """Squeeze and Unsqueeze: dims of size 1 come and go, the others keep their order."""
    site.parameters()
    x, y = ([a for a in t.axes if a is not None] for t in (site.tensor(0), site.output()))
    for a, b in zip(x, y, strict=True):
        unify(a, b)


def local_squeeze(local: Local) -> Call:
    """Name the dims of size 1: a rank may have one index of a dim that stays."""
    call, x = local.unchanged(), local.site.tensor(0)
    if local.site.has(1) or "axes" in call.attributes:
        return call
    ones = [dim for dim, size in enumerate(x.shape) if size == ONE]
    if not ones:
        return Call("Identity", call.inputs, {})
    if local.site.opset < 13:
        return call._replace(attributes={"axes": ones})
    return call._replace(inputs=[*call.inputs, local.constant(int64(*ones))])


def transpose(site: Site) -> None:
    x, y = site.tensor(0), site.output()
    order = site.attribute("perm", list(reversed(range(x.rank))))
    for place, dim in enumerate(order):
        site.tie(x.axes[dim], y.axes[place])


def expand(site: Site) -> None:
    x, y = site.tensor(0), site.output()
    site.parameters()
    site.tie_all(x.axes, y.axes)
    site.born += [axis for axis in y.axes if axis is not None]


def local_expand(local: Local) -> Call:
    given, y = local.site.tensor(1), local.site.output()
    target = Tensor("", 0, (), y.axes[y.rank - full(given.shape[0]) :])
    known = entries(given, len(target.axes))
    fixed, ratios = local_sizes(local, target, known)
    if not fixed and not ratios:
        return local.unchanged()
    vector = rescale(local, local.input(1), given.value, fixed, ratios, len(target.axes))
    return Call("Expand", [local.input(0), vector], {})


def shape(site: Site) -> None:
    site.only_size = True


def local_shape(local: Local) -> Call:
    """Give the size of the whole tensor, from that of this rank's part."""
    x = local.site.tensor(0)
    call = local.unchanged()
    start, stop, _ = slice(call.attributes.get("start"), call.attributes.get("end")).indices(
        x.rank
    )
    fixed, ratios = {}, {}
    for place, axis in enumerate(x.axes[start:stop]):
        if axis is not None and local.layout.holds(axis):
            if axis.size.is_static:
                fixed[place] = find(axis).size.first
            else:
                ratios[place] = 1 / local.layout.fraction(axis, local.rank)
    if not fixed and not ratios:
        return call
    vector = local.node(call.op_type, call.inputs, **call.attributes)
    return Call("Identity", [rescale(local, vector, None, fixed, ratios, stop - start)], {})


def size(site: Site) -> None:
    site.only_size = True


def local_size(local: Local) -> Call:
    """Count the elements of the whole tensor, from those of this rank's part."""
    share = Fraction(1)
    for axis in local.site.tensor(0).axes:
        share *= local.layout.fraction(axis, local.rank)
    if share == 1:
        return local.unchanged()
    count = local.node("Size", [local.input(0)])
    many = local.node("Mul", [count, local.constant(np.array(share.denominator, np.int64))])
    return Call("Div", [many, local.constant(np.array(share.numerator, np.int64))], {})


def trilu(site: Site) -> None:
    """Each matrix by itself."""
    x = site.tensor(0)
    site.parameters()
    site.tie_all(x.axes, site.output().axes)
    site.whole(*x.axes[-2:])


def made(site: Site) -> None:
    """Make a tensor out of sizes: whole, and cut where it is used."""
    site.parameters(0)


def concat(site: Site) -> None:
    join(site, [tensor for tensor in site.inputs if tensor is not None])


def join(site: Site, parts: Sequence[Tensor]) -> None:
    """Say that the output is these tensors, one after another along `axis`."""
    y = site.output()
    axis = site.attribute("axis") % y.rank
    for part in parts:
        for dim in set(range(y.rank)) - {axis}:
            site.tie(part.axes[dim], y.axes[dim])
    joined = [part.axes[axis] or Axis(part.shape[axis]) for part in parts if max(part.shape[axis])]
    site.tie(y.axes[axis], concatenation(joined) if joined else None)


def split(site: Site) -> None:
    x = site.tensor(0)
    site.parameters()
    axis = site.attribute("axis", 0) % x.rank
    outs = [out for out in site.outputs if out is not None]
    for out in outs:
        for dim in set(range(x.rank)) - {axis}:
            site.tie(x.axes[dim], out.axes[dim])
    if x.axes[axis] is None:
        return
    wide = [out for out in outs if max(out.shape[axis])]
    parts = cut_at(x.axes[axis], [out.shape[axis] for out in wide])
    for out, part in zip(wide, parts, strict=True):
        site.tie(out.axes[axis], part)


def local_split(local: Local) -> Call:
    x = local.site.tensor(0)
    axis = local.site.attribute("axis", 0) % x.rank
    call = local.unchanged()
    if not local.layout.holds(x.axes[axis]):
        return call
    outs = [out for out in local.site.outputs if out is not None]
    sizes = [_local_dim(local, out, axis).first for out in outs]
    if local.site.opset < 13:
        return call._replace(attributes={"axis": axis, "split": sizes})
    return Call("Split", [local.input(0), local.constant(int64(*sizes))], {"axis": axis})


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
    rest = x.size.minus(start).minus(length)
    sizes = [size for size in (start, length, rest) if size.first]
    parts = cut_at(x, sizes)
    site.tie(parts[1 if start.first else 0], y)


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


def pad(site: Site) -> None:
    """A dim that is padded is needed whole; the others pass."""
    x, y = site.tensor(0), site.output()
    given = site.constant(1) if site.has(1) else site.attribute("pads")
    if given is None:
        raise Conflict("the pads are computed when the model runs")
    axes = site.dims(3) or list(range(x.rank))
    amounts = np.reshape(given, (2, len(axes))).any(axis=0)
    padded = {axes[k] for k in np.flatnonzero(amounts)}
    _pass_all_but(site, x, y, padded)


def tile(site: Site) -> None:
    """A dim that is repeated is needed whole; the others pass."""
    x, y = site.tensor(0), site.output()
    repeated = {dim for dim in range(x.rank) if x.shape[dim] != y.shape[dim]}
    _pass_all_but(site, x, y, repeated)


def _pass_all_but(site: Site, x: Tensor, y: Tensor, dims: set[int]) -> None:
    site.parameters()
    for dim in range(x.rank):
        if dim in dims:
            site.whole(x.axes[dim])
        else:
            site.tie(x.axes[dim], y.axes[dim])
