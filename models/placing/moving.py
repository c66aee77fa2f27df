"""A resharding as nodes of one rank: a collective where it is one, else messages.

What a device has already is cut out of it without communication. Of dims of unknown size the parts
are handled: out of a whole dim one is sliced as numpy.array_split would; wherever several are put
into another order they must be equally long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper

from ..errors import PlacementError
from .exchanges import Groups, exchange, gathering, of_groups
from .placement import Box, Indices, Placement, Shape, inner, with_dim_apart
from .rank_graph import RankGraph
from .resharding import Join, Piece, Route, Tree, order, route


def move(
    out: RankGraph, name: str, shape: Shape, before: Placement, after: Placement, data_type: int
) -> str:
    """Add the nodes that reshard a tensor; return its name after, "" if this rank has none.

    `name` is this rank's part before, and not looked at where it has none. Two ways of cutting a
    dim of unknown size that have no part in common go by the whole tensor.
    """
    try:
        return _moved(out, name, shape, (before, after), data_type)
    except PlacementError:
        whole = Placement.everywhere(sorted({*before.members, *after.members}))
        if whole in (before, after):
            raise
    name = move(out, name, shape, before, whole, data_type)
    return move(out, name, shape, whole, after, data_type)


def _moved(
    out: RankGraph, name: str, shape: Shape, places: tuple[Placement, Placement], data_type: int
) -> str:
    for dim, size in enumerate(shape):
        within = next((n for placement in places if (n := inner(placement, dim))), None)
        if size is None and within is not None:
            return _move_apart(out, name, shape, places, data_type, (dim, within))
    return _move(out, name, route(shape, *places), data_type)


def _move_apart(
    out: RankGraph,
    name: str,
    shape: Shape,
    places: tuple[Placement, Placement],
    data_type: int,
    at: tuple[int, int],
) -> str:
    """Give factors within one of unknown size a dim of their own for as long as it takes."""
    dim, size = at
    before, after = (with_dim_apart(placement, dim, size) for placement in places)
    spread: Shape = (*shape[:dim], None, size, *shape[dim + 1 :])
    if out.rank in before.members:
        held = before.held([n or before.extent(k) or 1 for k, n in enumerate(spread)])
        length = len(held[out.rank][dim + 1])
        name = _reshaped(out, name, len(shape), (dim, dim + 1), [-1, length])
    made = move(out, name, spread, before, after, data_type)
    return _reshaped(out, made, len(spread), (dim, dim + 2), [-1]) if made else ""


def _move(out: RankGraph, name: str, found: Route, data_type: int) -> str:
    have = found.before.get(out.rank)
    if not found.moves:
        return _made(out, name, found, data_type)
    gathered, exchanged = gathering(found), exchange(found)
    if (gathered or exchanged) and have is None:
        return ""
    if gathered is not None:
        return _gather(out, name, found, gathered.dim, gathered.groups)
    if exchanged is not None:
        return out.communicate(
            "AllToAll",
            [name],
            split_dim=exchanged.split_dim,
            concat_dim=exchanged.concat_dim,
            **of_groups(exchanged.groups),
        )
    for sent in found.moves:
        if sent.sender == out.rank and have is not None:
            part = _select(out, name, have, sent.box, found.shape)
            out.communicate("Send", [part, out.constant(np.array(sent.receiver))])
    return _made(out, name, found, data_type)


def _gather(out: RankGraph, name: str, found: Route, dim: int, groups: Groups) -> str:
    made = out.communicate("AllGather", [name], dim=dim, **of_groups(groups))
    (row,) = (row for row in groups if out.rank in row)
    places = order([found.before[member][dim] for member in row])
    return made if places is None else _ordered(out, made, dim, places, found.shape)


def _made(out: RankGraph, name: str, found: Route, data_type: int) -> str:
    tree = found.made.get(out.rank)
    return "" if tree is None else _join(out, name, tree, found, data_type)


def _join(out: RankGraph, name: str, tree: Tree, found: Route, data_type: int) -> str:
    if isinstance(tree, Join):
        parts = [_join(out, name, part, found, data_type) for part in tree.parts]
        joined = out.node("Concat", parts, axis=tree.dim)
        if tree.order is None:
            return joined
        return _ordered(out, joined, tree.dim, tree.order, found.shape)
    shape = tuple(None if found.shape[k] is None else len(row) for k, row in enumerate(tree.box))
    if tree.elements == 0 and None not in shape:
        dtype = helper.tensor_dtype_to_np_dtype(data_type)
        return out.constant(np.empty([size or 0 for size in shape], dtype))
    if tree.sender == out.rank:
        return _select(out, name, found.before[out.rank], tree.box, found.shape)
    return _receive(out, tree, shape, data_type)


def _receive(out: RankGraph, piece: Piece, shape: Shape, data_type: int) -> str:
    known = {"shape": list(shape)} if shape and None not in shape else {}
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
    count = len(places) if parts is None else parts
    spread = _reshaped(out, name, len(shape), (dim, dim + 1), [count, -1])
    ordered = out.node("Gather", [spread, out.int64(*places)], axis=dim)
    return _reshaped(out, ordered, len(shape) + 1, (dim, dim + 2), [-1])


def _reshaped(
    out: RankGraph, name: str, rank: int, dims: tuple[int, int], sizes: Sequence[int]
) -> str:
    """Put dims of these sizes in the place of the dims from the first to before the last."""
    shape = out.node("Shape", [name])
    slow, fast = range(dims[0]), range(dims[1], rank)
    ends = [out.node("Gather", [shape, out.int64(*row)], axis=0) for row in (slow, fast)]
    target = out.node("Concat", [ends[0], out.int64(*sizes), ends[1]], axis=0)
    return out.node("Reshape", [name, target])
