"""A resharding as nodes of one rank: a collective where it is one, else messages.

What a device has already is cut out of it without communication. Of dims of unknown size the parts
are handled: out of a whole dim one is sliced as numpy.array_split would; wherever several are put
into another order they must be equally long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper

from .exchanges import Groups, exchange, gathering
from .placement import Box, Indices, Shape
from .rank_graph import RankGraph
from .resharding import Join, Piece, Route, Tree, order


def move(out: RankGraph, name: str, route: Route, data_type: int) -> str | None:
    """Add the nodes that reshard a tensor; return its name after, None if the rank has none.

    `name` is this rank's part before, and not looked at where it has none.
    """
    have = route.before.get(out.rank)
    if not route.moves:
        return _made(out, name, route, data_type)
    if (gathered := gathering(route)) is not None:
        if have is None:
            return None
        return _gather(out, name, route, gathered.dim, gathered.groups)
    if (exchanged := exchange(route)) is not None:
        if have is None:
            return None
        return out.communicate(
            "AllToAll",
            [name],
            split_dim=exchanged.split_dim,
            concat_dim=exchanged.concat_dim,
            **_of_groups(exchanged.groups),
        )
    for sent in route.moves:
        if sent.sender == out.rank and have is not None:
            part = _select(out, name, have, sent.box, route.shape)
            out.communicate("Send", [part, out.constant(np.array(sent.receiver))])
    return _made(out, name, route, data_type)


def _of_groups(groups: Groups) -> dict[str, object]:
    return {"groups": [rank for row in groups for rank in row], "group_size": len(groups[0])}


def _gather(out: RankGraph, name: str, route: Route, dim: int, groups: Groups) -> str:
    made = out.communicate("AllGather", [name], dim=dim, **_of_groups(groups))
    (row,) = (row for row in groups if out.rank in row)
    found = order([route.before[member][dim] for member in row])
    return made if found is None else _ordered(out, made, dim, found, route.shape)


def _made(out: RankGraph, name: str, route: Route, data_type: int) -> str | None:
    tree = route.made.get(out.rank)
    return None if tree is None else _join(out, name, tree, route, data_type)


def _join(out: RankGraph, name: str, tree: Tree, route: Route, data_type: int) -> str:
    if isinstance(tree, Join):
        parts = [_join(out, name, part, route, data_type) for part in tree.parts]
        joined = out.node("Concat", parts, axis=tree.dim)
        if tree.order is None:
            return joined
        return _ordered(out, joined, tree.dim, tree.order, route.shape)
    have = route.before.get(out.rank)
    if tree.sender == out.rank and have is not None:
        return _select(out, name, have, tree.box, route.shape)
    shape = tuple(None if route.shape[k] is None else len(row) for k, row in enumerate(tree.box))
    if tree.sender == out.rank:  # nothing is wanted of it
        dtype = helper.tensor_dtype_to_np_dtype(data_type)
        return out.constant(np.empty([size or 0 for size in shape], dtype))
    return _receive(out, tree, shape, data_type)


def _receive(out: RankGraph, piece: Piece, shape: Shape, data_type: int) -> str:
    known = {} if None in shape else {"shape": list(shape)}
    sender = out.constant(np.array(piece.sender))
    name = out.communicate("Recv", [sender], dtype=data_type, **known)
    out.declare(name, data_type, shape)
    return name


def _select(out: RankGraph, name: str, have: Box, want: Box, shape: Shape) -> str:
    """Cut a part out of what this rank has."""
    for dim, (given, kept) in enumerate(zip(have, want, strict=True)):
        if len(given) == len(kept):
            continue
        places = np.searchsorted(given, kept)
        if shape[dim] is not None:
            name = out.node("Gather", [name, out.int64(*places)], axis=dim)
        elif np.array_equal(given, np.arange(len(given))):
            name = _slices(out, name, dim, kept, len(given))
        else:
            name = _ordered(out, name, dim, places, shape, len(given))
    return name


def _slices(out: RankGraph, name: str, dim: int, parts: Indices, count: int) -> str:
    """Keep some of the parts of a dim of unknown size that is cut in `count`."""
    runs = np.split(parts, np.flatnonzero(np.diff(parts) > 1) + 1)
    length = out.node("Gather", [out.node("Shape", [name]), out.int64(dim)], axis=0)
    kept = [
        out.node(
            "Slice",
            [
                name,
                _bound(out, length, int(run[0]), count),
                _bound(out, length, int(run[-1]) + 1, count),
                out.int64(dim),
            ],
        )
        for run in runs
    ]
    return kept[0] if len(kept) == 1 else out.node("Concat", kept, axis=dim)


def _bound(out: RankGraph, length: str, part: int, parts: int) -> str:
    """Compute where a part begins: of a length l, part * (l // parts) + min(part, l % parts)."""
    each = out.node("Div", [length, out.int64(parts)])
    rest = out.node("Sub", [length, out.node("Mul", [each, out.int64(parts)])])
    longer = out.node("Min", [rest, out.int64(part)])
    return out.node("Add", [out.node("Mul", [each, out.int64(part)]), longer])


def _ordered(
    out: RankGraph,
    name: str,
    dim: int,
    places: Indices,
    shape: Sequence[int | None],
    parts: int | None = None,
) -> str:
    """Put the indices of a dim, or its equal parts where its size is unknown, into an order."""
    if shape[dim] is not None:
        return out.node("Gather", [name, out.int64(*places)], axis=dim)
    sizes = out.node("Shape", [name])
    slow, fast = range(dim), range(dim + 1, len(shape))
    ends = [out.node("Gather", [sizes, out.int64(*dims)], axis=0) for dims in (slow, fast)]
    count = len(places) if parts is None else parts
    apart = out.node("Concat", [ends[0], out.int64(count, -1), ends[1]], axis=0)
    whole = out.node("Concat", [ends[0], out.int64(-1), ends[1]], axis=0)
    spread = out.node("Reshape", [name, apart])
    return out.node("Reshape", [out.node("Gather", [spread, out.int64(*places)], axis=dim), whole])
