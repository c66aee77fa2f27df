"""What a rule may use to rewrite its node for one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .axes import Size
from .layout import Layout
from .site import Site, Tensor, int64

Array = npt.NDArray[Any]


class Call(NamedTuple):
    """The node that makes the site's outputs on this rank."""

    op_type: str
    inputs: Sequence[str]
    attributes: Mapping[str, Any]
    domain: str | None = None
    """None: that of the site's node"""


class Local(Protocol):
    """One site on one rank, while its graph is written."""

    site: Site
    layout: Layout
    rank: int
    is_partial: bool
    """the ranks' outputs are parts that remain to be combined"""
    dtype: np.dtype[Any]
    """element type in which the output is computed; float32 where half-precision is summed"""

    def input(self, position: int) -> str:
        """Return the name of an input, as this rank holds it; "" for an absent one."""
        ...

    def constant(self, array: Array) -> str:
        """Add a small tensor to the graph and return its name."""
        ...

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        ...

    def unchanged(self) -> Call:
        """Return the node as it is, on this rank's inputs."""
        ...


Body = Callable[[Sequence[str], Sequence[str]], tuple[Sequence[str], Sequence[str]]]
"""Adds the nodes of a step: given the names of states and elements, returns those of the states
after it and of what it makes."""


class ScanWriter(Protocol):
    """What a node is written out to that communicates in every step of its own."""

    layout: Layout
    rank: int

    def local(self, tensor: Tensor) -> str:
        """Return the name of a tensor, or of this rank's part of it."""
        ...

    def constant(self, array: Array) -> str: ...

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str: ...

    def all_gather(self, name: str, dim: int) -> str: ...

    def scan(
        self, states: Sequence[str], elements: Sequence[str], kinds: Sequence[int], body: Body
    ) -> list[str]:
        """Add a Scan along the first dim of `elements`; return the names of its outputs.

        `kinds` are the element types of the states and the elements.
        """
        ...


def rescale(
    local: Local,
    vector: str,
    known: Array | None,
    fixed: Mapping[int, int],
    ratios: Mapping[int, Fraction],
    length: int,
    dtype: type[np.integer[Any]] = np.int64,
) -> str:
    """Return a vector of sizes with some entries replaced, and others multiplied.

    Entries of `known` are contents that are the same in all runs. Where a ratio falls on an entry
    it leaves no rest, since both sizes are those of one dim. There is no Where before opset 9.
    """
    if known is not None and not ratios:
        numbers = [fixed.get(k, n) for k, n in enumerate(known.tolist())]
        return local.constant(np.array(numbers, dtype))
    if ratios:
        over = [ratios.get(k, Fraction(1)) for k in range(length)]
        vector = local.node("Mul", [vector, local.constant(int64(*(r.numerator for r in over)))])
        vector = local.node("Div", [vector, local.constant(int64(*(r.denominator for r in over)))])
    if fixed:
        kept = local.constant(np.array([k not in fixed for k in range(length)], dtype))
        values = local.constant(np.array([fixed.get(k, 0) for k in range(length)], dtype))
        vector = local.node("Add", [local.node("Mul", [vector, kept]), values])
    return vector


def local_sizes(
    local: Local, tensor: Tensor, entries: Sequence[int | None]
) -> tuple[dict[int, int], dict[int, Fraction]]:
    """Return what a vector of a tensor's sizes must become on this rank: replacements and ratios.

    `entries` are the vector's contents where they are the same in all runs; 0 and -1 in a Reshape,
    1 in an Expand mean that the size is found from the data, and are left.
    """
    fixed, ratios = dict[int, int](), dict[int, Fraction]()
    for dim, axis in enumerate(tensor.axes):
        if axis is None or not local.layout.holds(axis) or entries[dim] in (-1, 0, 1):
            continue
        share = local.layout.local(axis, local.rank)
        if share.is_static:
            fixed[dim] = share.first
        else:
            ratios[dim] = local.layout.fraction(axis, local.rank)
    return fixed, ratios


def entries(tensor: Tensor, length: int) -> list[int | None]:
    """Return the contents of a vector, None for an entry that depends on what is fed."""
    if tensor.values is None:
        return [None] * length
    pairs = zip(*(value.reshape(-1).tolist() for value in tensor.values), strict=True)
    return [a if a == b else None for a, b in pairs]


def full(size: Size) -> int:
    """Return a static size."""
    assert size.is_static
    return size.first
