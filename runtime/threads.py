"""How many threads a rank computes with, and onnxruntime's options for them."""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np
import onnxruntime

from ..collectives import Communicator


def fair_share(comm: Communicator) -> int:
    """Return this rank's share of its node's cores, at least 1; collective.

    A core that k ranks may use counts 1/k: four ranks on two cores get one thread each, and so do
    two ranks that are bound to one core each.
    """
    cores = np.array(sorted(os.sched_getaffinity(0)), np.int64)
    counts = comm.allgather(np.array([len(cores)]), counts=(1,) * comm.size)
    everyone = comm.allgather(cores, counts=counts.tolist())
    by_rank = np.split(everyone, np.cumsum(counts)[:-1])
    users: dict[int, int] = {}
    for rank in comm.node_ranks:
        for core in by_rank[rank].tolist():
            users[core] = users.get(core, 0) + 1
    return max(1, int(sum(Fraction(1, users[core]) for core in cores.tolist())))


def with_threads(options: onnxruntime.SessionOptions, threads: int) -> onnxruntime.SessionOptions:
    """Set the number of threads, and that idle ones sleep.

    Each session has a pool of its own, and a plan has a session for each fragment: pools that spin
    after their turn keep the cores from the next. All-MiniLM-L6-v2, one part of four, 36 sentences
    of 40 tokens, two threads on two cores: 104 ms asleep, 650 ms spinning. onnxruntime's global
    pool, at 150 ms, is no way out: once it exists, it refuses every session of the process that
    does not ask for it.
    """
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
