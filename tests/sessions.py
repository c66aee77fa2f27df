"""Runs models that communicate on the ranks of one process, each in a session of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from case import build

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Any]

TIMEOUT_S = 120.0  # 60 were not enough for four ranks of many fragments on a core that others used


def model(
    body: str, ends: str = "(float[n,m] x) => (float[a,b] y)", **weights: Any
) -> onnx.ModelProto:
    """Parse a graph of these nodes."""
    return build(f"{ends} {{ {body} }}", 20, **weights)


def operand(rank: int, *shape: int) -> Array:
    """A different array on each rank, of small integers so that sums are exact."""
    rng = np.random.default_rng(rank)
    return rng.integers(-9, 9, shape or (2, 3)).astype(np.float32)


def operands(size: int, *shape: int) -> list[Array]:
    """Those of all ranks."""
    return [operand(rank, *shape) for rank in range(size)]


def run(
    size: int,
    made: onnx.ModelProto | Path | Callable[[int], onnx.ModelProto],
    feeds: Feeds | Callable[[int], Feeds] = lambda rank: {"x": operand(rank)},
) -> list[list[Array]]:
    """The outputs of every rank; model and feeds are those of all, or give each its own."""

    def on_rank(comm: Communicator) -> list[Array]:
        mine = made(comm.rank) if callable(made) else made
        source = mine if isinstance(mine, Path) else mine.SerializeToString()
        fed = feeds(comm.rank) if callable(feeds) else feeds
        with InferenceSession(source, comm=comm) as session:
            session.run(None, fed)  # a second run must not see the first
            return session.run(None, fed)

    return local.run(size, on_rank, timeout=TIMEOUT_S)
