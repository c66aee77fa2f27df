"""Reshardings that one collective does: an AllGather or an AllToAll in each of some groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .placement import Box, Indices
from .resharding import Route

Groups = tuple[tuple[int, ...], ...]


class Gathering(NamedTuple):
    """An AllGather along a dim; some groups of devices, each in the order of its parts."""

    dim: int
    groups: Groups


class Exchange(NamedTuple):
    """An AllToAll: what is cut along concat_dim before is cut along split_dim after."""

    split_dim: int
    concat_dim: int
    groups: Groups


def of_groups(groups: Sequence[tuple[int, ...]]) -> dict[str, object]:
    """Return the attributes of a node in which these groups take part."""
    return {"groups": [rank for row in groups for rank in row], "group_size": len(groups[0])}


def gathering(route: Route) -> Gathering | None:
    """Return the AllGather that a resharding is, if it is one."""
    if route.before.keys() != route.after.keys():
        return None
    for dim in range(len(route.sizes)):
        groups = _groups(route, dim, [(*_others(box, dim), box[dim]) for box in _after(route)])
        if groups and all(_is_gathered(route, dim, group) for group in groups):
            return Gathering(dim, groups)
    return None


def _is_gathered(route: Route, dim: int, group: Sequence[int]) -> bool:
    parts = np.concatenate([route.before[device][dim] for device in group])
    return all(
        np.array_equal(np.sort(parts), route.after[device][dim])
        and _are_equal(_others(route.before[device], dim), _others(route.after[device], dim))
        for device in group
    )


def exchange(route: Route) -> Exchange | None:
    """Return the AllToAll that a resharding is, if it is one."""
    if route.before.keys() != route.after.keys():
        return None
    for split_dim, concat_dim in itertools.permutations(range(len(route.sizes)), 2):
        if route.shape[split_dim] is None:
            continue
        keys = [
            (*_others(box, split_dim), route.before[device][split_dim])
            for device, box in route.after.items()
        ]
        groups = _groups(route, concat_dim, keys)
        if groups and all(_is_exchanged(route, split_dim, concat_dim, row) for row in groups):
            return Exchange(split_dim, concat_dim, groups)
    return None


def _is_exchanged(route: Route, split_dim: int, concat_dim: int, group: Sequence[int]) -> bool:
    joined = np.concatenate([route.before[device][concat_dim] for device in group])
    parts = np.array_split(route.before[group[0]][split_dim], len(group))
    for device, part in zip(group, parts, strict=True):
        wanted = list(route.before[device])
        wanted[split_dim], wanted[concat_dim] = part, joined
        if not _are_equal(wanted, route.after[device]):
            return False
    return True


def _after(route: Route) -> Iterable[Box]:
    return route.after.values()


def _groups(route: Route, dim: int, keys: Iterable[Sequence[Indices]]) -> Groups:
    """Return the groups of devices of equal keys that hold each part of a dim once, in order.

    Empty where there are none of several devices, or where they are not of one size.
    """
    rows: dict[tuple[bytes, ...], dict[bytes, list[int]]] = {}
    for device, key in zip(route.after, keys, strict=True):
        part = route.before[device][dim].tobytes()
        rows.setdefault(_bytes(key), {}).setdefault(part, []).append(device)
    groups = list[tuple[int, ...]]()
    for holders in rows.values():
        if len({len(row) for row in holders.values()}) > 1:
            return ()
        ordered = sorted(holders.values(), key=lambda row: route.before[row[0]][dim].tolist())
        groups += zip(*ordered, strict=True)
    sizes = {len(group) for group in groups}
    return tuple(groups) if len(sizes) == 1 and sizes != {1} else ()


def _others(box: Box, dim: int) -> Box:
    return (*box[:dim], *box[dim + 1 :])


def _are_equal(a: Sequence[Indices], b: Sequence[Indices]) -> bool:
    return all(map(np.array_equal, a, b))


def _bytes(rows: Sequence[Indices]) -> tuple[bytes, ...]:
    return tuple(row.tobytes() for row in rows)
