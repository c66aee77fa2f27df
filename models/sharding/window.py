"""Windows: a dim of which each place of the output reads a few neighbours.

A convolution and a pooling go over a dim with a kernel. Where ranks have runs of the places of
both sides, a rank that makes the places [start, stop) reads

    [start * stride - before, (stop - 1) * stride - before + span)

of what is given. What of that is beyond the dim is padding; what lies with other ranks is a halo.
"""

from __future__ import annotations

from typing import NamedTuple

from .axes import Axis


class Window(NamedTuple):
    """How a node goes over one dim of its first input; sizes are known before it runs."""

    dim: int
    given: Axis
    made: Axis
    stride: int
    span: int
    """places that the kernel covers, those that a dilation leaves out among them"""
    before: int
    """places of padding"""

    def reads(self, made: range) -> range:
        """Return the places of the input that some of the output read, padding excluded."""
        low, high = self._reach(made)
        return range(max(low, 0), min(high, self.given.size.first))

    def padding(self, made: range) -> tuple[int, int]:
        """Return how much padding they read before the dim, and behind it."""
        low, high = self._reach(made)
        return max(-low, 0), max(high - self.given.size.first, 0)

    def _reach(self, made: range) -> tuple[int, int]:
        low = made.start * self.stride - self.before
        return low, (made.stop - 1) * self.stride - self.before + self.span
