"""MPI's own collectives, `algorithm="mpi"`: the opaque baseline for the schedules.

They work on the same buffers and offsets as the schedules do, in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Offsets
from .reduction import REDUCTIONS, Reduction
from .transport import Transport
from .waiting import until

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]

# The methods of mpi4py; their non-blocking forms have an I before.
METHODS = {
    "allreduce": "Allreduce", "reduce": "Reduce", "reduce_scatter": "Reduce_scatter",
    "allgather": "Allgatherv", "broadcast": "Bcast", "scatter": "Scatterv", "gather": "Gatherv",
    "alltoall": "Alltoallv", "barrier": "Barrier",
}  # fmt: skip

LARGEST_COUNT = (1 << 31) - 1  # of bytes, below MPI 4

# Where MPI defines an operation, by the letter of numpy's kind of dtype.
KINDS = {
    "SUM": "iufc", "PROD": "iufc", "MIN": "iuf", "MAX": "iuf", "BAND": "iu", "BOR": "iu",
    "BXOR": "iu", "LAND": "biu", "LOR": "biu", "LXOR": "biu",
}  # fmt: skip

# MPI's name for numpy's dtype characters that it can reduce.
TYPES = {
    "?": "C_BOOL", "b": "SIGNED_CHAR", "h": "SHORT", "i": "INT", "l": "LONG", "q": "LONG_LONG",
    "B": "UNSIGNED_CHAR", "H": "UNSIGNED_SHORT", "I": "UNSIGNED", "L": "UNSIGNED_LONG",
    "Q": "UNSIGNED_LONG_LONG", "f": "FLOAT", "d": "DOUBLE", "g": "LONG_DOUBLE",
    "F": "C_FLOAT_COMPLEX", "D": "C_DOUBLE_COMPLEX", "G": "C_LONG_DOUBLE_COMPLEX",
}  # fmt: skip


@dataclass(frozen=True)
class Native:
    """One of MPI's collectives, with its datatype and operation if it reduces."""

    transport: Transport
    comm: MPI.Intracomm
    collective: str
    kind: MPI.Datatype | None = None
    how: MPI.Op | None = None

    async def run(self, buffer: Array, offsets: Offsets, root: int, blocks: bool) -> None:
        """Do it on a flat buffer of blocks, by MPI's call that blocks or by the one that not."""
        method = METHODS[self.collective]
        mine = np.empty(0, buffer.dtype)
        if self.collective == "reduce_scatter":
            mine = np.empty(offsets[self.comm.rank + 1] - offsets[self.comm.rank], buffer.dtype)
        given = self.arguments(buffer, offsets, root, mine)
        if blocks:
            getattr(self.comm, method)(*given)
        else:
            request = getattr(self.comm, f"I{method.lower()}")(*given)
            everyone = [rank for rank in range(self.comm.size) if rank != self.comm.rank]
            await until(self.transport.pending([request], everyone))
        if self.collective == "reduce_scatter":
            buffer[offsets[self.comm.rank] : offsets[self.comm.rank + 1]] = mine

    def reduce(self, x: Array, out: Array) -> None:
        """An allreduce of one array into another, or in place, by the call that blocks."""
        from mpi4py import MPI  # here, since it starts MPI

        assert self.how is not None  # of what reduces
        given = MPI.IN_PLACE if x is out else (x, self.kind)
        self.comm.Allreduce(given, (out, self.kind), self.how)

    def arguments(
        self, buffer: Array, offsets: Offsets, root: int, mine: Array
    ) -> tuple[Any, ...]:
        """What the method takes."""
        from mpi4py import MPI  # here, since it starts MPI

        rank, size = self.comm.rank, self.comm.size
        block = buffer[offsets[rank] : offsets[rank + 1]].view(np.uint8)
        match self.collective:
            case "allreduce":
                return MPI.IN_PLACE, (buffer, self.kind), self.how
            case "reduce" if rank == root:
                return MPI.IN_PLACE, (buffer, self.kind), self.how, root
            case "reduce":
                return (buffer, self.kind), None, self.how, root
            case "reduce_scatter":
                counts = [stop - start for start, stop in itertools.pairwise(offsets)]
                return (buffer, self.kind), (mine, self.kind), counts, self.how
            case "allgather":
                return MPI.IN_PLACE, uneven(buffer, offsets)
            case "broadcast":
                return buffer.view(np.uint8), root
            case "scatter" if rank == root:
                return uneven(buffer, offsets), MPI.IN_PLACE, root
            case "scatter":
                return None, block, root
            case "gather" if rank == root:
                return MPI.IN_PLACE, uneven(buffer, offsets), root
            case "gather":
                return block, None, root
            case "alltoall":
                # Open MPI's Ialltoallv takes buffers that begin alike for one, and an empty slice
                # of numpy's begins where its array does.
                half = offsets[size]
                came = [offset - half for offset in offsets[size:]]
                there = buffer[half:] if half < offsets[-1] else np.empty(1, buffer.dtype)
                here = buffer if half else np.empty(1, buffer.dtype)
                return uneven(here, offsets[: size + 1]), uneven(there, came)
        return ()


def find(
    transport: Transport, collective: str, dtype: np.dtype[Any], nbytes: int, op: Reduction | None
) -> Native | None:
    """MPI's call for a collective; None where MPI is not there or lacks the dtype or operation."""
    comm = getattr(transport, "comm", None)
    if comm is None or nbytes > LARGEST_COUNT:
        return None
    if op is None:
        return Native(transport, comm, collective)
    name = "SUM" if op.name == "mean" else op.name.upper()
    # A function of the caller's may be called as one of ours.
    if op.name not in REDUCTIONS or op.function is not REDUCTIONS[op.name].function:
        return None
    if name == "SUM" and dtype.char in "bBhH":
        return None  # Open MPI's saturates in vectors, and wraps at their end
    if not dtype.isnative or dtype.kind not in KINDS[name] or dtype.char not in TYPES:
        return None
    from mpi4py import MPI  # here, since it starts MPI

    return Native(transport, comm, collective, getattr(MPI, TYPES[dtype.char]), getattr(MPI, name))


def uneven(buffer: Array, offsets: Sequence[int]) -> tuple[Any, ...]:
    """A buffer of blocks in mpi4py's words: counts and displacements, in bytes."""
    item = buffer.itemsize
    starts = [start * item for start in offsets]
    counts = [stop - start for start, stop in itertools.pairwise(starts)]
    return (buffer.view(np.uint8), counts, starts[:-1], "B")
