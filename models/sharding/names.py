"""Names and constants of a graph that is being written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from ..weights import Weight


class Names:
    """Gives names that nothing has yet, and keeps the constants that are added under them."""

    def __init__(self, taken: Iterable[str], constants: dict[str, Weight]) -> None:
        self.base = "node"
        """what names begin with"""
        self._taken, self._constants = set(taken), constants

    def constant(self, array: npt.NDArray[Any]) -> str:
        """Add a small tensor; return its name."""
        name = self.free(f"{self.base}/constant")
        self._constants[name] = Weight.from_array(name, array)
        return name

    def free(self, name: str) -> str:
        """Return a name that nothing has yet: this one, or with a number behind it."""
        numbered = (f"{name}.{count}" for count in itertools.count(2))
        free = next(n for n in itertools.chain([name], numbered) if n not in self._taken)
        self._taken.add(free)
        return free
