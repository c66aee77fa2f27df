"""Calls that take turns, timed on the slowest rank."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ...collectives import Communicator

Seconds = npt.NDArray[np.float64]
K = TypeVar("K")

QUIET_S = 5.0
"""How long nothing is printed before a line says how far the measurement is."""


class Call(NamedTuple):
    """What is timed, and what is done with its result afterwards; both are told the turn."""

    run: Callable[[int], Any]
    after: Callable[[int, Any], object] = lambda turn, made: None


class Progress:
    """Say now and then, on stderr, how far a long measurement is."""

    def __init__(self, comm: Communicator) -> None:
        self.speaks = comm.rank == 0
        self.said = time.monotonic()

    def at(self, what: str) -> None:
        """Say it, unless something was printed a moment ago."""
        if self.speaks and time.monotonic() - self.said > QUIET_S:
            print(f"# {what}", file=sys.stderr, flush=True)
            self.said = time.monotonic()

    def show(self, text: str) -> None:
        """Print a result."""
        if self.speaks:
            print(text, flush=True)
            self.said = time.monotonic()


def alternated(
    comm: Communicator,
    calls: Mapping[K, Call],
    iters: int,
    warmup: int,
    progress: Progress,
    what: str,
) -> dict[K, Seconds]:
    """Time calls in turn, in the other direction every other time, a barrier before each.

    The seconds of every iteration on the slowest rank. Memory is chosen by the turn, which rises
    from call to call, so that it has rested for a while. Collective.
    """
    own = np.zeros((len(calls), iters))
    keys = list(calls)
    turn = 0
    for k in range(-warmup, iters):
        progress.at(f"{what}: {k + warmup} of {iters + warmup} rounds of calls are done")
        order = range(len(keys)) if k % 2 else range(len(keys) - 1, -1, -1)
        for index in order:
            run, after = calls[keys[index]]
            comm.barrier()
            start = time.perf_counter()
            made = run(turn)
            if k >= 0:
                own[index, k] = time.perf_counter() - start
            after(turn, made)
            turn += 1
        # Else a call might never see some of the memory.
        turn += k % 2
    return dict(zip(keys, comm.allreduce(own, op="max"), strict=True))
