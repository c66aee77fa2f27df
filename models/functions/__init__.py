"""Collectives as ONNX functions over Send and Recv.

ring      one that is generic in rank and size: loops, and integer arithmetic
writer    nodes, written one after another
lowering  which part in which collective a function is
rounds    the rounds of its schedule as nodes
lower     nodes of a model made calls of functions
native    and made nodes again
"""

from .lower import lower
from .native import check_places, native

__all__ = ["check_places", "lower", "native"]
