"""The mesh: named axes of ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .errors import MeshError

AXES = ("pp", "dp", "tp")
"""Names of axes, the slowest first: tensor parallel ranks are neighbours and share a node."""


class Place(NamedTuple):
    """Where a rank is on each axis."""

    pp: int
    dp: int
    tp: int


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes by name.

    >>> Mesh.parse("tp=2,pp=3").size
    6
    >>> str(Mesh.parse({"tp": 2, "pp": 3}))
    'pp=3,tp=2'
    """

    pp: int = 1
    """pipeline stages"""
    dp: int = 1
    """replicas, each with a part of the batch"""
    tp: int = 1
    """ranks that share every layer"""

    def __post_init__(self) -> None:
        for name, size in self.axes.items():
            if size < 1:
                raise MeshError(f"mesh axis {name} must have at least 1 rank, got {size}")

    @classmethod
    def parse(cls, text: str | Mapping[str, int] | Mesh) -> Mesh:
        """Read `tp=2,pp=2`, or a mapping of the same. Raises MeshError."""
        if isinstance(text, Mesh):
            return text
        if isinstance(text, str):
            pairs = [part.partition("=")[::2] for part in text.split(",")]
        else:
            pairs = [(name, str(size)) for name, size in text.items()]
        sizes: dict[str, int] = {}
        for name, size in ((name.strip(), size.strip()) for name, size in pairs):
            if name not in AXES or not size.isdecimal() or name in sizes:
                raise MeshError(
                    f"expected a mesh such as tp=4 with each of {', '.join(AXES)} "
                    f"at most once, got {text!r}"
                )
            sizes[name] = int(size)
        return cls(**sizes)

    @property
    def axes(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in AXES}

    @property
    def size(self) -> int:
        """Number of ranks."""
        return math.prod(self.axes.values())

    def place(self, rank: int) -> Place:
        """Return where a rank is on each axis.

        >>> Mesh(pp=2, dp=3, tp=4).place(17)
        Place(pp=1, dp=1, tp=1)
        """
        rest, tp = divmod(rank, self.tp)
        return Place(*divmod(rest, self.dp), tp)

    def __str__(self) -> str:
        return ",".join(f"{n}={s}" for n, s in self.axes.items() if s > 1) or "tp=1"


def ranks(count: int) -> str:
    """Say how many ranks.

    >>> ranks(1), ranks(2)
    ('1 rank', '2 ranks')
    """
    return f"{count} rank" + ("s" if count != 1 else "")


def meshes(size: int) -> list[Mesh]:
    """Return all meshes of so many ranks: those with the most of tp first, then of pp.

    >>> [str(mesh) for mesh in meshes(4)]
    ['tp=4', 'pp=2,tp=2', 'dp=2,tp=2', 'pp=4', 'pp=2,dp=2', 'dp=4']
    """
    return [
        Mesh(pp=pp, dp=size // tp // pp, tp=tp)
        for tp in range(size, 0, -1)
        if size % tp == 0
        for pp in range(size // tp, 0, -1)
        if size // tp % pp == 0
    ]
