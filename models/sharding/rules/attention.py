"""Rules of attention: heads pass, those of the queries in groups that share keys and values.

Tensors are [batch, heads, length, width], or [batch, length, heads * width] where an attribute
gives the number of heads.
"""

from __future__ import annotations

from typing import NamedTuple

from ..axes import Axis, Conflict, Size, product
from ..rewrite import Call, Local
from ..site import Site, Tensor, fixed


class Dims(NamedTuple):
    """The dims of one of the tensors, as axes."""

    batch: Axis | None
    heads: Axis | None
    length: Axis | None


def _split_heads(site: Site, tensor: Tensor, heads: Axis) -> Dims:
    """Find the dims of a tensor that has these heads; their width is needed whole."""
    if tensor.rank == 4:
        batch, own, length, width = tensor.axes
        site.tie(own, heads)
        site.whole(width)
        return Dims(batch, heads, length)
    batch, length, hidden = tensor.axes
    inner = tensor.shape[2].over(heads.size)
    if inner is None:
        raise Conflict(f"{heads.size.first} heads do not divide {tensor.shape[2].first}")
    each = Axis(inner)
    site.tie(hidden, product((heads, each)))
    site.whole(each)
    return Dims(batch, heads, length)


def attention(site: Site) -> None:
    """Heads and batch pass; so do queries, where no mask is told by their number."""
    groups, heads = _groups_and_heads(site)
    queries = _split_heads(site, site.tensor(0), heads)
    made = _split_heads(site, site.output(), heads)
    keys = [_split_heads(site, site.tensor(k), groups) for k in (1, 2)]
    keys += [_split_heads(site, t, groups) for t in _caches(site)]
    site.tie(queries.length, made.length)
    for dims in (made, *keys):
        site.tie(dims.batch, queries.batch)
    site.whole(*(dims.length for dims in keys))
    scores = (queries.batch, heads, queries.length, None)
    if site.has(3):
        site.tie_all(site.tensor(3).axes, scores)
        site.whole(*site.tensor(3).axes[-1:])
    if len(site.outputs) > 3 and site.outputs[3] is not None:
        site.tie_all(site.outputs[3].axes, scores)
    if site.has(6):
        site.tie(site.tensor(6).axes[0], queries.batch)
    windows = (site.attribute(f"{side}_window_size", -1) for side in ("left", "right"))
    if site.attribute("is_causal", 0) or site.has(6) or max(windows) >= 0:
        site.whole(queries.length)


def _caches(site: Site) -> list[Tensor]:
    """Return past and present keys and values: always of four dims."""
    return [t for t in (*site.inputs[4:6], *site.outputs[1:3]) if t is not None]


def _groups_and_heads(site: Site) -> tuple[Axis, Axis]:
    """Return the heads of the keys, and those of the queries: the same, times so many."""
    q, k = site.tensor(0), site.tensor(1)
    heads = fixed(q.shape[1]) if q.rank == 4 else site.attribute("q_num_heads", 0)
    groups = fixed(k.shape[1]) if k.rank == 4 else site.attribute("kv_num_heads", 0)
    if not groups or heads % groups:
        raise Conflict(f"{groups} heads of keys do not divide {heads} of queries")
    axis, each = _static(groups), _static(heads // groups)
    return axis, product((axis, each)) or _static(1)


def _static(size: int) -> Axis:
    return Axis(Size(size, size))


def local_attention(local: Local) -> Call:
    """Count this rank's heads."""
    call = local.unchanged()
    names = {"q_num_heads": 0, "kv_num_heads": 1}
    counts = {
        name: _local_heads(local, local.site.tensor(position), call.attributes[name])
        for name, position in names.items()
        if name in call.attributes
    }
    return call._replace(attributes={**call.attributes, **counts})


def _local_heads(local: Local, tensor: Tensor, heads: int) -> int:
    """Return how many of a tensor's heads this rank has."""
    dim = 1 if tensor.rank == 4 else 2
    width = tensor.shape[dim].over(Size(heads, heads))
    assert width is not None
    count = local.layout.local(tensor.axes[dim], local.rank).over(width)
    assert count is not None
    return count.first


def rotary_embedding(site: Site) -> None:
    """Every head is turned by angles that are of its place, or are looked up by it."""
    x, y = site.tensor(0), site.output()
    site.tie_all(x.axes, y.axes)
    count = fixed(x.shape[1]) if x.rank == 4 else site.attribute("num_heads", 0)
    if not count:
        raise Conflict("expected the number of heads")
    dims = _split_heads(site, x, _static(count))
    for position in (1, 2):
        angles = site.tensor(position).axes
        site.whole(*(angles if site.has(3) else angles[-1:]))
        if not site.has(3):
            site.tie_all(angles, (dims.batch, dims.length, None))
    if site.has(3):
        site.tie_all(site.tensor(3).axes, (dims.batch, dims.length))


def local_rotary_embedding(local: Local) -> Call:
    """Count this rank's heads."""
    call = local.unchanged()
    heads = call.attributes.get("num_heads", 0)
    if not heads:
        return call
    count = _local_heads(local, local.site.tensor(0), heads)
    return call._replace(attributes={**call.attributes, "num_heads": count})
