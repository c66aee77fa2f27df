"""One clock for all ranks: how far that of each is from rank 0's."""

from __future__ import annotations

import time

import numpy as np

from ..collectives import Communicator

ROUNDS = 32
"""Of which the quickest counts: what delays an answer delays one way more than the other."""


def offsets(comm: Communicator) -> list[float]:
    """Return the seconds to add to each rank's time.perf_counter to have rank 0's; collective.

    Rank 0 asks one rank after another for its time, and takes it as that of the middle between
    question and answer (Cristian, Probabilistic clock synchronization, 1989): right to within half
    the quickest round. Other ranks get zeros.
    """
    found = [0.0] * comm.size
    for rank in range(1, comm.size):
        if comm.rank == 0:
            found[rank] = min(_asked(comm, rank) for _ in range(ROUNDS))[1]
        elif comm.rank == rank:
            for _ in range(ROUNDS):
                comm.recv(np.empty(1), 0)
                comm.send(np.array([time.perf_counter()]), 0)
    return found


def _asked(comm: Communicator, rank: int) -> tuple[float, float]:
    """Return the seconds of a round, and the offset that it gives."""
    start = time.perf_counter()
    comm.send(np.zeros(1), rank)
    theirs = float(comm.recv(np.empty(1), rank)[0])
    end = time.perf_counter()
    return end - start, (start + end) / 2 - theirs
