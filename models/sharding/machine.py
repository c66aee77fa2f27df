"""The machine that a choice is made for: seconds of computing, and of collectives.

Seconds are those of a rank with one thread. What a node computes and what it reads are added, as
if neither hid the other; so a choice adds up from the nodes, and has an exact optimum.

A run of a model that keeps states is a prompt, and steps of one token each. A step reads weights
and states anew, and waits for as many collectives, of next to no bytes; what else it computes is
not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ...collectives.cluster import Cluster
from ...collectives.origin import Origin
from .analysis import LENGTH
from .workload import Work

RINGS = {"AllReduce": 2, "AllGather": 1, "Broadcast": 1, "ReduceScatter": 1, "Send": 2}
"""How often a rank sends its share of the rest, where a collective goes round in a ring. A Send is
between two: its share is half of the tensor."""


PRICED_AS = {"ReduceScatter": "reduce_scatter", "Send": "broadcast"}
"""Names in collectives/specs.py that are not those of operators, in small letters."""


class Transfer(NamedTuple):
    """A collective of a run, or a message."""

    op_type: str
    """AllReduce, AllGather, Broadcast, ReduceScatter or Send"""
    nbytes: int
    """of the whole tensor"""
    size: int
    """number of ranks"""
    is_state: bool = False
    """it gathers a state that may stay on its ranks from step to step"""
    is_token: bool = False
    """it is that of one token of a sequence, which a node goes through by itself"""

    @property
    def sent(self) -> float:
        """Bytes that a rank sends."""
        return RINGS[self.op_type] * self.nbytes * (self.size - 1) / self.size


@dataclass(frozen=True)
class Machine:
    """What a rank computes and reads in a second, and what collectives cost."""

    multiply_adds: float
    """a second"""
    made: float
    """elements a second"""
    read: float
    """bytes of weights and states a second"""
    cut: float
    """seconds that one collective more costs beside its own: a graph is cut once more, and ranks
    wait for the slower; counted where collectives could be fewer, not of those that must be"""
    cluster: Cluster
    token: float
    """seconds that a rank takes for one token of a sequence that it goes through with others,
    beside what it computes and the collective"""

    def computing(self, work: Work, steps: int = 0) -> float:
        """Return the seconds that work takes, in a run and so many steps."""
        once = work.multiply_adds / self.multiply_adds + work.made / self.made
        once += work.again / self.read
        return once + (1 + steps) * work.read / self.read

    def moving(self, transfers: Iterable[Transfer], steps: int = 0) -> float:
        """Return the seconds that collectives take one after another, at the least."""
        return sum(
            self._moving(each, each.nbytes) + steps * self._of_step(each) for each in transfers
        )

    def _of_step(self, each: Transfer) -> float:
        if each.is_state:
            return 0.0
        if each.is_token:  # there is one for each token of a text
            return self._moving(each, each.nbytes) / LENGTH
        return self._moving(each, each.nbytes / LENGTH)

    def _moving(self, each: Transfer, nbytes: float) -> float:
        collective = PRICED_AS.get(each.op_type) or each.op_type.lower()
        least = self.cluster.lower_bound(collective, each.size, nbytes)
        return self.cluster.overhead + least + (self.token if each.is_token else 0.0)


HERE = Machine(
    multiply_adds=5e10,
    made=2e9,
    read=3e10,
    cut=1.5e-4,
    cluster=Cluster(
        alpha=4e-5,
        beta=2.5e-10,
        gamma=2e-10,
        overhead=0.0,
        ranks=4,
        origin=Origin("2026-11-21", "AMD EPYC, 2 cores", "Open MPI v5.0.11", 2),
    ),
    token=5e-5,
)
"""One core of an AMD EPYC (Zen 4), one thread (scripts/results/machine_2core_2026-11-21.md). Of
collectives `auto` in shared memory (allreduce_2core_2026-11-21.md, there): at 4 ranks 118 to 179
us for 1 KiB and 2.5 to 2.6 ms for 4 MiB, where 2.3 are predicted; at 2 ranks half of the
prediction. A step of an LSTM of 64 units takes 21 us of a processor's time in onnxruntime, where
the operator takes 2 for each; Python hands over what goes in and comes out. With 25 collectives
two ranks take 3.6 ms more for a token than one process with two threads
(decoder_2core_2026-11-22.md).
"""
