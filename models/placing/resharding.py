"""From one placement of a tensor to another: who sends which part to whom.

The indices of each dim fall into classes, alike in who holds them before and who wants them
after; the grid of these classes cuts the tensor into cells. What a device lacks it gets from one
of the devices that hold it, the one that has sent the least so far, so that exactly the missing
elements are moved. What a device makes of its parts is a tree: pieces, each of one sender, and
joins of pieces along a dim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .placement import Box, Indices, Placement, Shape, sizes_of

Owners = npt.NDArray[np.int64]
"""By cell of a device's part: the device that it comes from."""


class Piece(NamedTuple):
    """A part that one device gives, which may be the one that wants it."""

    sender: int
    box: Box

    @property
    def elements(self) -> int:
        return math.prod(map(len, self.box))


class Join(NamedTuple):
    """Parts that are concatenated along a dim."""

    dim: int
    parts: tuple[Tree, ...]
    order: Indices | None
    """where the indices of the dim are found in what is concatenated; None: in their order"""


Tree = Piece | Join


class Move(NamedTuple):
    """A part of a tensor that goes from one device to another."""

    sender: int
    receiver: int
    box: Box


@dataclass(frozen=True)
class Route:
    """A resharding."""

    shape: Shape
    sizes: tuple[int, ...]
    """of the dims; one that is not known counts its parts"""
    before: Mapping[int, Box]
    after: Mapping[int, Box]
    made: Mapping[int, Tree]
    """by device that holds any of it after"""

    @property
    def moves(self) -> tuple[Move, ...]:
        """What is sent, by receiver."""
        return tuple(
            Move(piece.sender, receiver, piece.box)
            for receiver, tree in self.made.items()
            for piece in pieces(tree)
            if piece.sender != receiver
        )

    @property
    def moved(self) -> int:
        """The number of elements that are sent."""
        return sum(math.prod(map(len, move.box)) for move in self.moves)

    @property
    def least(self) -> int:
        """The number of elements that some device wants and lacks: no resharding sends fewer."""
        return sum(
            math.prod(map(len, box)) - _common(box, self.before.get(device))
            for device, box in self.after.items()
        )


def pieces(tree: Tree) -> Iterator[Piece]:
    """Yield the pieces of a tree, in the order in which they are joined."""
    if isinstance(tree, Piece):
        yield tree
    else:
        for part in tree.parts:
            yield from pieces(part)


def route(shape: Shape, before: Placement, after: Placement) -> Route:
    """Find what is sent from one placement to another.

    The work grows with the cells, and with the indices that all devices hold of each dim.
    Raises PlacementError where a dim of unknown size is cut into different parts.
    """
    sizes = sizes_of(shape, before, after)
    held, wanted = before.held(sizes), after.held(sizes)
    grid = [classes(dim, size, [held, wanted]) for dim, size in enumerate(sizes)]
    sent: Counter[int] = Counter()
    is_known = None not in shape
    made = {
        device: Piece(device, box)
        if is_known and not math.prod(map(len, box))
        else _made(device, box, held, grid, sent)
        for device, box in wanted.items()
    }
    return Route(shape, sizes, held, wanted, made)


def classes(dim: int, size: int, tables: Sequence[Mapping[int, Box]]) -> list[Indices]:
    """Return the classes of the indices of a dim, each in ascending order.

    Between two borders of runs all indices are alike: one is looked at for each.
    """
    rows = [box[dim] for table in tables for box in table.values()]
    found = np.unique(np.concatenate([np.zeros(1, np.int64), *map(_borders, rows)]))
    starts = found[found < size]
    which = np.zeros(len(starts), np.int64)
    for row in rows:
        which = np.unique(2 * which + _has(row, starts), return_inverse=True)[1]
    which = np.repeat(which, np.diff(starts, append=size))
    ends = np.cumsum(np.bincount(which))
    alike = np.split(np.argsort(which, kind="stable"), ends[:-1]) if size else []
    return sorted(alike, key=lambda row: int(row[0]))


def _borders(row: Indices) -> Indices:
    """Return where runs begin, and the first index beyond each."""
    gaps = np.flatnonzero(np.diff(row) > 1)
    return np.concatenate([row[:1], row[gaps + 1], row[gaps] + 1, row[-1:] + 1])


def _has(row: Indices, wanted: Indices) -> npt.NDArray[np.bool_]:
    """Say of each index whether it is in an ascending row."""
    return np.searchsorted(row, wanted, "right") > np.searchsorted(row, wanted)


def _made(
    device: int,
    box: Box,
    held: Mapping[int, Box],
    grid: Sequence[Sequence[Indices]],
    sent: Counter[int],
) -> Tree:
    rows = [
        [row for row in classes if _has(part, row[:1]).all()] or [part]
        for classes, part in zip(grid, box, strict=True)
    ]
    counts = _grid([[len(row) for row in dim] for dim in rows])
    have = {giver: _grid(_inside(rows, given)) for giver, given in held.items()}
    owners = np.full(counts.shape, device, np.int64)
    missing = ~have[device] if device in have else np.ones(counts.shape, bool)
    table = np.array(list(have.values())).reshape(len(have), -1)
    for column in np.unique(table[:, missing.reshape(-1)], axis=1).T:
        cells = missing & (table == column[:, None]).all(axis=0).reshape(counts.shape)
        givers = [giver for giver, has in zip(held, column, strict=True) if has]
        chosen = min(givers, key=lambda giver: (sent[giver], giver))
        sent[chosen] += int(counts[cells].sum())
        owners[cells] = chosen
    return _tree(rows, owners)


def _inside(rows: Sequence[Sequence[Indices]], box: Box) -> list[list[bool]]:
    """Say of each class whether a box has it; any box has the empty one."""
    pairs = zip(rows, box, strict=True)
    return [[bool(_has(part, row[:1]).all()) for row in dim] for dim, part in pairs]


def _grid(rows: Sequence[Sequence[Any]]) -> npt.NDArray[Any]:
    """Return the outer product of rows."""
    made: npt.NDArray[Any] = np.array(True)
    for row in rows:
        made = made[..., None] * np.array(row)
    return made


def _tree(rows: Sequence[Sequence[Indices]], owners: Owners) -> Tree:
    if (owners == owners.flat[0]).all():
        return Piece(int(owners.flat[0]), tuple(map(_sorted, rows)))
    dim, groups = _split(owners)
    parts = tuple(
        _tree(
            [[row[k] for k in group] if axis == dim else row for axis, row in enumerate(rows)],
            np.take(owners, group, axis=dim),
        )
        for group in groups
    )
    return Join(dim, parts, order([_sorted([rows[dim][k] for k in group]) for group in groups]))


def _split(owners: Owners) -> tuple[int, list[list[int]]]:
    """Choose the dim along which the fewest parts are different; return them."""
    choices = list[tuple[int, list[list[int]]]]()
    for dim in range(owners.ndim):
        slices = np.moveaxis(owners, dim, 0).reshape(owners.shape[dim], -1)
        alike: dict[bytes, list[int]] = {}
        for k, row in enumerate(slices):
            alike.setdefault(row.tobytes(), []).append(k)
        if len(alike) > 1:
            choices.append((dim, list(alike.values())))
    return min(choices, key=lambda choice: len(choice[1]))


def _sorted(rows: Sequence[Indices]) -> Indices:
    return np.sort(np.concatenate(rows), kind="stable")


def order(rows: Sequence[Indices]) -> Indices | None:
    """Return the order that sorts concatenated rows, None where they are sorted."""
    joined = np.concatenate(rows)
    return None if (joined[1:] >= joined[:-1]).all() else np.argsort(joined, kind="stable")


def _common(a: Box, b: Box | None) -> int:
    if b is None:
        return 0
    return math.prod(len(np.intersect1d(x, y)) for x, y in zip(a, b, strict=True))
