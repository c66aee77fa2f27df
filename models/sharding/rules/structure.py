"""Rules of operators that move elements, and of those that read sizes.

One convention for integers: every vector of sizes in a sharded graph holds the sizes of the whole
tensor. A Shape of a sharded tensor is made global where it is read, and a Reshape or Expand makes
its target local where it uses it. So one vector may serve sharded and whole tensors alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce

import numpy as np

from ..axes import (
    ONE,
    Axis,
    Conflict,
    Size,
    concatenation,
    cut_at,
    find,
    leaves,
    unify,
    unify_rows,
)
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


def squeeze(site: Site) -> None:
    """same_dims, where the dims of size 1 are the same in all runs."""
    is_named = site.has(1) or site.attribute("axes", None) is not None
    if not is_named and not all(size.is_static for size in site.tensor(0).shape):
        raise Conflict("which dims it takes away depends on sizes that only a run knows")
    same_dims(site)


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
    if reduce(Size.plus, (out.shape[axis] for out in wide)) != x.shape[axis]:
        raise Conflict("its parts do not make up the whole")
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
