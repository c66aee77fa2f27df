"""Rules of attention in one node: cut by head.

b batch, s new tokens, n heads of the queries, g groups of them that share keys and values, r heads
in a group (n = g * r), h width of a head. Queries are [b, s, n*h]. Where keys and values lie in
one tensor with them, its last dim is a sum [n*h + g*h + g*h], and is cut by head in each part.
Caches are [b, g, tokens, h]. Cut along g, a rank has some groups and their caches; cut along r, it
has some heads of every group, and all keys and values.
"""

from __future__ import annotations

from ..axes import Axis, Conflict, concatenation
from ..rewrite import Call, Local, full
from ..site import Site, Tensor
from .forms import WHOLE, axis_of, lay, merged, optional, result, width_of


def grouped_query_attention(site: Site) -> None:
    """Cut by group of heads that share keys and values, or by head within all groups."""
    query, y = site.tensor(0), site.output()
    heads, groups = site.attribute("num_heads"), site.attribute("kv_num_heads")
    if heads % groups:
        raise Conflict(f"{heads} heads are no multiple of {groups} of keys and values")
    if site.has(12) or site.has(13):
        raise Conflict("its caches are quantised")
    b, s = query.axes[0], query.axes[1]
    g, r, h = axis_of(groups), axis_of(heads // groups), axis_of(_width(y, heads))
    n, keys = merged(g, r), merged(g, h)
    packed = merged(g, r, h) if site.has(1) else concatenation((merged(g, r, h), keys, keys))
    site.whole(s, h)
    lay(site, query, (b, s, packed))
    for position in (1, 2):
        lay(site, optional(site, position), (b, WHOLE, keys))
    for cache in (optional(site, 3), optional(site, 4), result(site, 1), result(site, 2)):
        lay(site, cache, (b, g, WHOLE, WHOLE))
    lay(site, optional(site, 5), (b,), (b, WHOLE))
    lay(site, optional(site, 9), (b, WHOLE))
    lay(site, optional(site, 10), (b, n, WHOLE, WHOLE))
    lay(site, optional(site, 11), (n,))
    lay(site, y, (b, s, merged(g, r, h)))
    lay(site, result(site, 3), (b, n, WHOLE, WHOLE))


def _width(y: Tensor, heads: int) -> int:
    """Return the width of a head, from that of all heads."""
    return width_of(y) // heads


def local_groups(local: Local) -> Call:
    """Give the number of heads and of groups that this rank has."""
    site, y = local.site, local.site.output()
    width = _width(y, site.attribute("num_heads"))
    own = _share(local, y.axes[2]) // width
    if site.has(1):
        shared = _share(local, site.tensor(1).axes[2]) // width
    else:
        shared = (_share(local, site.tensor(0).axes[2]) // width - own) // 2
    call = local.unchanged()
    counts = {"num_heads": own, "kv_num_heads": shared}
    return call._replace(attributes={**call.attributes, **counts})


def _share(local: Local, axis: Axis | None) -> int:
    return full(local.layout.local(axis, local.rank))


def multi_head_attention(site: Site) -> None:
    """Cut by head."""
    query, y = site.tensor(0), site.output()
    heads = site.attribute("num_heads")
    b, n, v = query.axes[0], axis_of(heads), axis_of(_width(y, heads))
    h = axis_of(_key_width(site, heads))
    site.whole(h, v)
    row, values = merged(n, h), merged(n, v)
    lay(site, query, (b, WHOLE, row), (b, WHOLE, n, WHOLE, WHOLE))
    kept = (b, n, WHOLE, WHOLE)
    lay(site, optional(site, 1), (b, WHOLE, row), kept, (b, WHOLE, n, WHOLE, WHOLE))
    lay(site, optional(site, 2), (b, WHOLE, values), kept)
    lay(site, optional(site, 3), (concatenation((row, row, values)),))
    _mask(site, 4, b)
    for tensor in (optional(site, 5), optional(site, 6), optional(site, 7)):
        lay(site, tensor, kept)
    if site.has(8) or site.has(9):
        raise Conflict("its cache is shared by the steps of a search")
    site.tie(y.axes[1], query.axes[1])
    lay(site, y, (b, WHOLE, values))
    for position in (1, 2, 3):
        lay(site, result(site, position), kept)


def _key_width(site: Site, heads: int) -> int:
    query = site.tensor(0)
    width = width_of(query)
    return width if query.rank == 5 else width // heads


def _mask(site: Site, position: int, b: Axis | None) -> None:
    """Tie a mask's batch where it is a dim; a mask of one dim may hold several rows of numbers."""
    mask = optional(site, position)
    if mask is not None and mask.rank == 1:
        site.whole(b)
    lay(site, mask, (WHOLE,), (b, WHOLE), (b, WHOLE, WHOLE), (b, WHOLE, WHOLE, WHOLE))


def attention(site: Site) -> None:
    """Self-attention that makes queries, keys and values: cut the columns that make them."""
    is_quantised = site.node.op_type == "QAttention"
    x, weights, y = site.tensor(0), site.tensor(1), site.output()
    mask, past = (5, 8) if is_quantised else (3, 4)
    heads = site.attribute("num_heads")
    if site.attribute("do_rotary", 0):
        raise Conflict("it rotates queries and keys itself")
    b, n, v = x.axes[0], axis_of(heads), axis_of(_width(y, heads))
    h = axis_of((width_of(weights) - width_of(y)) // 2 // heads)
    site.whole(h, v)
    row, values = merged(n, h), merged(n, v)
    columns = concatenation((row, row, values))
    lay(site, x, (b, WHOLE, WHOLE))
    lay(site, weights, (WHOLE, columns))
    for position in (2, 4, 7) if is_quantised else (2,):  # scales and zero points by column
        lay(site, optional(site, position), (columns,), ())
    _mask(site, mask, b)
    if not is_quantised:
        lay(site, optional(site, 5), (b, n, WHOLE, WHOLE))
    for cache in (optional(site, past), result(site, 1)):
        lay(site, cache, (WHOLE, b, n, WHOLE, WHOLE))
    site.tie(y.axes[1], x.axes[1])
    lay(site, y, (b, WHOLE, values))


def local_heads(local: Local) -> Call:
    """Give the number of heads that this rank has."""
    site, call = local.site, local.unchanged()
    y, heads = site.output(), site.attribute("num_heads", 0)
    if not heads:
        return call
    axis = y.axes[2 if y.rank == 3 else 1]
    own = heads * local.layout.fraction(axis, local.rank)
    changed = {**call.attributes, "num_heads": int(own)}
    if sizes := site.attribute("qkv_hidden_sizes"):
        changed["qkv_hidden_sizes"] = [size * int(own) // heads for size in sizes]
    return call._replace(attributes=changed)


def rotary_embedding(site: Site) -> None:
    """Cut by head: [b, s, n*h] or [b, n, s, h]."""
    x, y, ids = site.tensor(0), site.output(), site.tensor(1)
    b, width = x.axes[0], 2 * width_of(site.tensor(2))
    site.tie_all(x.axes, y.axes)
    if x.rank == 3:
        total = width_of(x)
        if site.attribute("rotary_embedding_dim", 0):
            width = total // site.attribute("num_heads", 0)
        h = axis_of(width)
        site.whole(h)
        lay(site, x, (b, WHOLE, merged(axis_of(total // width), h)))
    else:
        lay(site, x, (b, x.axes[1], WHOLE, WHOLE))
    lay(site, ids, (WHOLE,), (b, WHOLE))
