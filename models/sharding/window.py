"""Windows: a dim of which each place of the output reads a few neighbours.

A convolution and a pooling go over a dim with a kernel; its transpose and an enlargement make
several places of one. Where ranks have runs of the places of both sides, what a rank reads for its
run follows from sizes alone. What of that is beyond the dim is padding; what lies with other ranks
is a halo.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from .axes import Axis


@dataclass(frozen=True)
class Window(ABC):
    """How a node goes over one dim of its first input; sizes are known before it runs."""

    dim: int
    given: Axis
    made: Axis

    @property
    def length(self) -> int:
        """Places of the input."""
        return self.given.size.first

    @abstractmethod
    def reads(self, made: range) -> range:
        """Return the places of the input that some of the output read, padding excluded."""

    @abstractmethod
    def edges(self, made: range) -> tuple[int, int]:
        """Return what is padded before and behind what they read, or left out of what it makes."""


@dataclass(frozen=True)
class Kernel(Window):
    """Places [start, stop) read [start * stride, (stop - 1) * stride + span), less the padding."""

    stride: int
    span: int
    """places that the kernel covers, those that a dilation leaves out among them"""
    before: int
    """places of padding"""

    def reads(self, made: range) -> range:
        low, high = self._reach(made)
        return range(max(low, 0), min(high, self.length))

    def edges(self, made: range) -> tuple[int, int]:
        """Return the padding of a rank."""
        low, high = self._reach(made)
        return max(-low, 0), max(high - self.length, 0)

    def _reach(self, made: range) -> tuple[int, int]:
        low = made.start * self.stride - self.before
        return low, (made.stop - 1) * self.stride - self.before + self.span


@dataclass(frozen=True)
class Spread(Window):
    """Each place given goes into `span` places from its number times the stride on.

    The kernel leaves no gaps: its span is not below the stride.
    """

    stride: int
    span: int
    before: int
    """places that are left out of what is made"""

    def reads(self, made: range) -> range:
        first = -((self.span - 1 - made.start - self.before) // self.stride)
        last = (made.stop - 1 + self.before) // self.stride
        return range(max(first, 0), min(last + 1, self.length))

    def edges(self, made: range) -> tuple[int, int]:
        """Return what is left out: the attribute pads of a transposed convolution."""
        read = self.reads(made)
        end = (read.stop - 1) * self.stride + self.span
        start = read.start * self.stride
        return made.start + self.before - start, end - made.stop - self.before


@dataclass(frozen=True)
class Enlargement(Window):
    """Each place becomes `factor` places, made of it and some beside it."""

    factor: int
    beside: int

    def reads(self, made: range) -> range:
        first, last = made.start // self.factor, (made.stop - 1) // self.factor
        return range(max(first - self.beside, 0), min(last + 1 + self.beside, self.length))

    def edges(self, made: range) -> tuple[int, int]:
        """Return what is left out of all that is made of what is read."""
        read = self.reads(made)
        return made.start - read.start * self.factor, read.stop * self.factor - made.stop
