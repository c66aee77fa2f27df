"""Axes: what the dims of a graph's tensors are made of.

An exporter writes the same thing many ways: the heads of an attention are a dim of their own, the
outer half of a dim of heads * width, or a third of a packed dim of queries, keys and values. An
axis names what is behind a dim:

    an atom                   a size, and nothing is known about its inside
    a product  (6*16)         row-major: 6 heads of 16
    a sum      [96+48+48]     a concatenation: queries, keys, values

Rules say which axes are one and the same, and `unify` makes them so in the whole graph: where a
Reshape shows that a dim of 96 is 6 times 16, every tensor that has this dim learns it, weights
included. What is left at the end are atoms that lie in many tensors at once; to shard the graph
is to choose some of them.

A size is a pair: it is measured at two settings of the symbolic dims, and the two differ where the
size depends on what is fed. So a batch of 11 is not taken for 11 heads. Dims of size 1 have no
axis (None): they broadcast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple


class Size(NamedTuple):
    """A size at two settings of the symbolic dims."""

    first: int
    second: int

    @property
    def is_static(self) -> bool:
        return self.first == self.second

    def times(self, other: Size) -> Size:
        return Size(self.first * other.first, self.second * other.second)

    def plus(self, other: Size) -> Size:
        return Size(self.first + other.first, self.second + other.second)

    def minus(self, other: Size) -> Size:
        return Size(self.first - other.first, self.second - other.second)

    def over(self, other: Size) -> Size | None:
        """Return the quotient, or None where the division leaves a rest."""
        if self.first % other.first or self.second % other.second:
            return None
        return Size(self.first // other.first, self.second // other.second)

    def is_below(self, other: Size) -> bool:
        return self.first < other.first and self.second < other.second


ONE = Size(1, 1)
ZERO = Size(0, 0)


class Conflict(Exception):  # noqa: N818  (it is caught as an answer: this node has no layout)
    """Say that two axes cannot be the same."""


class Axis:
    """A node of the union-find. Compare axes by `find`, never by their fields."""

    __slots__ = ("kind", "link", "parts", "size")

    def __init__(
        self,
        size: Size,
        kind: Literal["atom", "product", "sum"] = "atom",
        parts: Sequence[Axis] = (),
    ) -> None:
        self.size = size
        self.kind = kind
        self.parts = tuple(parts)
        self.link: Axis | None = None

    def become(self, other: Axis) -> None:
        """Stand for `other` from now on, wherever this axis is held."""
        self.link = other

    def __repr__(self) -> str:
        axis = find(self)
        if axis.kind == "atom":
            return str(axis.size.first) if axis.size.is_static else f"~{axis.size.first}"
        if axis.kind == "product":
            return f"({'*'.join(map(repr, leaves(axis)))})"
        return f"[{'+'.join(map(repr, pieces(axis)))}]"


def find(axis: Axis) -> Axis:
    """Return the axis that stands for this one, and remember it on the way."""
    last = axis
    while last.link is not None:
        last = last.link
    while axis.link is not None:
        axis.link, axis = last, axis.link
    return last


def product(parts: Iterable[Axis | None]) -> Axis | None:
    """Return the row-major product; None for nothing but dims of size 1."""
    flat = [leaf for part in parts if part is not None for leaf in leaves(part)]
    if len(flat) < 2:
        return flat[0] if flat else None
    size = ONE
    for part in flat:
        size = size.times(part.size)
    return Axis(size, "product", flat)


def concatenation(parts: Iterable[Axis]) -> Axis:
    """Return the sum of parts, in their order."""
    flat = [piece for part in parts for piece in pieces(part)]
    if len(flat) == 1:
        return flat[0]
    size = ZERO
    for part in flat:
        size = size.plus(part.size)
    return Axis(size, "sum", flat)


def leaves(axis: Axis) -> list[Axis]:
    """Return the factors of an axis, the slowest first: atoms and sums."""
    axis = find(axis)
    if axis.kind != "product":
        return [] if axis.size == ONE else [axis]
    return [leaf for part in axis.parts for leaf in leaves(part)]


def pieces(axis: Axis) -> list[Axis]:
    """Return the parts of a sum, or the axis itself."""
    axis = find(axis)
    if axis.kind != "sum":
        return [axis]
    return [piece for part in axis.parts for piece in pieces(part)]


def atoms(axis: Axis | None) -> Iterator[Axis]:
    """Yield the atoms of an axis from left to right, each as often as it occurs."""
    if axis is None:
        return
    axis = find(axis)
    if axis.kind == "atom":
        yield axis
    for part in axis.parts:
        yield from atoms(part)


def are_alike(a: Axis, b: Axis) -> bool:
    """Say whether two axes are made of the same atoms in the same way."""
    a, b = find(a), find(b)
    if a is b:
        return True
    rows = (leaves(a), leaves(b)) if a.kind == "product" else (pieces(a), pieces(b))
    is_possible = a.kind == b.kind != "atom" and len(rows[0]) == len(rows[1])
    return is_possible and all(map(are_alike, *rows))


def unify(a: Axis, b: Axis) -> None:
    """Make two axes one. Raises Conflict where their structures do not fit.

    What was unified before the conflict stays so: the graph is then more constrained than it need
    be, which is sound.
    """
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        raise Conflict(f"{a!r} and {b!r} differ in size")
    if a.kind == "atom":
        a.become(b)
    elif b.kind == "atom":
        b.become(a)
    elif a.kind == b.kind == "sum":
        _unify_sums(a, b)
    elif "sum" in (a.kind, b.kind):
        whole, parts = (a, b) if b.kind == "sum" else (b, a)
        _unify_product_with_sum(whole, parts)
    else:
        unify_rows(leaves(a), leaves(b))


def unify_rows(a: list[Axis], b: list[Axis]) -> None:
    """Unify two rows of factors with the same product, from the fastest factor on."""
    while a and b:
        x, y = find(a.pop()), find(b.pop())
        if x.size == y.size:
            unify(x, y)
        elif y.size.is_below(x.size):
            outer, inner = split(x, y.size)
            unify(inner, y)
            a += leaves(outer)
        else:
            outer, inner = split(y, x.size)
            unify(inner, x)
            b += leaves(outer)
    if a or b:
        raise Conflict(f"{a or b} is left over")


def split(axis: Axis, inner: Size) -> tuple[Axis, Axis]:
    """Split an axis into an outer and an inner factor of the given size."""
    axis = find(axis)
    outer = axis.size.over(inner)
    if outer is None:
        raise Conflict(f"{axis!r} is no multiple of {inner.first}")
    if axis.kind == "atom":
        halves = Axis(outer), Axis(inner)
    elif axis.kind == "sum":
        divided = [_split_any(part, inner) for part in pieces(axis)]
        for (_, one), (_, other) in pairwise(divided):
            unify(one, other)
        halves = concatenation(part for part, _ in divided), divided[0][1]
    else:
        return _split_any(axis, inner)
    axis.become(Axis(axis.size, "product", halves))
    return halves


def _split_any(axis: Axis, inner: Size) -> tuple[Axis, Axis]:
    """Split at a size that may fall between two factors, or inside of one."""
    axis = find(axis)
    if axis.size == inner:
        return Axis(ONE), axis
    if axis.kind != "product":
        return split(axis, inner)
    row, fast = leaves(axis), list[Axis]()
    have = ONE
    while have != inner:
        need = inner.over(have)
        if need is None or not row:
            raise Conflict(f"{axis!r} cannot be split at {inner.first}")
        leaf = row.pop()
        if inner.is_below(have.times(leaf.size)):
            outer, leaf = split(leaf, need)
            row += leaves(outer)
        fast.insert(0, leaf)
        have = have.times(leaf.size)
    return product(row) or Axis(ONE), product(fast) or Axis(ONE)


def cut(axis: Axis, at: Size) -> tuple[Axis, Axis]:
    """Cut an axis into the first `at` and the rest. Raises Conflict within a factor."""
    axis = find(axis)
    rest = axis.size.minus(at)
    if axis.kind == "atom":
        halves = Axis(at), Axis(rest)
        axis.become(Axis(axis.size, "sum", halves))
        return halves
    if axis.kind == "sum":
        return _cut_sum(axis, at)
    slow, *fast = leaves(axis)
    inner = product(fast)
    assert inner is not None
    place = at.over(inner.size)
    if place is None:
        raise Conflict(f"{axis!r} cannot be cut at {at.first}")
    low, high = cut(slow, place)
    return _times(low, inner), _times(high, inner)


def _times(outer: Axis, inner: Axis) -> Axis:
    axis = product((outer, inner))
    assert axis is not None
    return axis


def _cut_sum(axis: Axis, at: Size) -> tuple[Axis, Axis]:
    before, row = list[Axis](), pieces(axis)
    have = ZERO
    while have != at:
        piece = row.pop(0)
        if at.is_below(have.plus(piece.size)):
            piece, rest = cut(piece, at.minus(have))
            row.insert(0, rest)
        elif not (have.plus(piece.size) == at or have.plus(piece.size).is_below(at)):
            raise Conflict(f"{axis!r} cannot be cut at {at.first}")
        before.append(piece)
        have = have.plus(piece.size)
    return concatenation(before), concatenation(row)


def cut_at(axis: Axis, sizes: Sequence[Size]) -> list[Axis]:
    """Cut an axis into parts of the given sizes, which add up to its own."""
    parts = list[Axis]()
    for size in sizes[:-1]:
        part, axis = cut(axis, size)
        parts.append(part)
    return [*parts, axis]


def _unify_sums(a: Axis, b: Axis) -> None:
    cuts = sorted({*_boundaries(a), *_boundaries(b)})
    sizes = [after.minus(before) for before, after in zip([ZERO, *cuts], cuts, strict=False)]
    if any(min(size) <= 0 for size in sizes):
        raise Conflict(f"{a!r} and {b!r} have their borders at different places")
    for x, y in zip(cut_at(a, sizes), cut_at(b, sizes), strict=True):
        unify(x, y)


def _boundaries(axis: Axis) -> Iterator[Size]:
    return accumulate((piece.size for piece in pieces(axis)), Size.plus)


def _unify_product_with_sum(whole: Axis, parts: Axis) -> None:
    row = pieces(parts)
    for x, y in zip(cut_at(whole, [part.size for part in row]), row, strict=True):
        unify(x, y)
