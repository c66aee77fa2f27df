"""MPI's own collectives, `algorithm="mpi"`: the opaque baseline for the schedules.

They work on the same buffers and offsets as the schedules do, in place.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Offsets
from .reduction import REDUCTIONS, Reduction
from .transport import Transport

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]
Call = Callable[[Array, Offsets, int], None]  # of (buffer, offsets, root)

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


def find(
    transport: Transport, collective: str, dtype: np.dtype[Any], nbytes: int, op: Reduction | None
) -> Call | None:
    """MPI's call for a collective; None where MPI is not there or lacks the dtype or operation."""
    comm = getattr(transport, "comm", None)
    if comm is None or nbytes > LARGEST_COUNT:
        return None
    if op is None:
        return functools.partial(MOVING[collective], comm)
    name = "SUM" if op.name == "mean" else op.name.upper()
    # A function of the caller's may be called as one of ours.
    if op.name not in REDUCTIONS or op.function is not REDUCTIONS[op.name].function:
        return None
    if not dtype.isnative or dtype.kind not in KINDS[name] or dtype.char not in TYPES:
        return None
    from mpi4py import MPI

    kind, how = getattr(MPI, TYPES[dtype.char]), getattr(MPI, name)
    return functools.partial(REDUCING[collective], comm, kind, how)


def allreduce(
    comm: MPI.Intracomm,
    kind: MPI.Datatype,
    how: MPI.Op,
    buffer: Array,
    offsets: Offsets,
    root: int,
) -> None:
    comm.Allreduce(in_place(), (buffer, kind), how)


def reduce(
    comm: MPI.Intracomm,
    kind: MPI.Datatype,
    how: MPI.Op,
    buffer: Array,
    offsets: Offsets,
    root: int,
) -> None:
    if comm.rank == root:
        comm.Reduce(in_place(), (buffer, kind), how, root)
    else:
        comm.Reduce((buffer, kind), None, how, root)


def reduce_scatter(
    comm: MPI.Intracomm,
    kind: MPI.Datatype,
    how: MPI.Op,
    buffer: Array,
    offsets: Offsets,
    root: int,
) -> None:
    counts = [stop - start for start, stop in itertools.pairwise(offsets)]
    mine = np.empty(counts[comm.rank], buffer.dtype)
    comm.Reduce_scatter((buffer, kind), (mine, kind), counts, how)
    buffer[offsets[comm.rank] : offsets[comm.rank + 1]] = mine


def allgather(comm: MPI.Intracomm, buffer: Array, offsets: Offsets, root: int) -> None:
    comm.Allgatherv(in_place(), blocks(buffer, offsets))


def broadcast(comm: MPI.Intracomm, buffer: Array, offsets: Offsets, root: int) -> None:
    comm.Bcast(buffer.view(np.uint8), root)


def scatter(comm: MPI.Intracomm, buffer: Array, offsets: Offsets, root: int) -> None:
    if comm.rank == root:
        comm.Scatterv(blocks(buffer, offsets), in_place(), root)
    else:
        mine = buffer[offsets[comm.rank] : offsets[comm.rank + 1]]
        comm.Scatterv(None, mine.view(np.uint8), root)


def gather(comm: MPI.Intracomm, buffer: Array, offsets: Offsets, root: int) -> None:
    if comm.rank == root:
        comm.Gatherv(in_place(), blocks(buffer, offsets), root)
    else:
        mine = buffer[offsets[comm.rank] : offsets[comm.rank + 1]]
        comm.Gatherv(mine.view(np.uint8), None, root)


def alltoall(comm: MPI.Intracomm, buffer: Array, offsets: Offsets, root: int) -> None:
    half = comm.size
    comm.Alltoallv(blocks(buffer, offsets[: half + 1]), blocks(buffer, offsets[half:]))


def barrier(comm: MPI.Intracomm, buffer: Array, offsets: Offsets, root: int) -> None:
    comm.Barrier()


def in_place() -> MPI.InPlaceType:
    """MPI.IN_PLACE, without importing MPI with this module."""
    from mpi4py import MPI

    return MPI.IN_PLACE


def blocks(buffer: Array, offsets: Offsets) -> tuple[Any, ...]:
    """A buffer of uneven blocks in mpi4py's words: counts and displacements, in bytes."""
    item = buffer.itemsize
    starts = [start * item for start in offsets]
    counts = [stop - start for start, stop in itertools.pairwise(starts)]
    return (buffer.view(np.uint8), counts, starts[:-1], "B")


REDUCING = {"allreduce": allreduce, "reduce": reduce, "reduce_scatter": reduce_scatter}
MOVING = {
    "allgather": allgather, "broadcast": broadcast, "scatter": scatter, "gather": gather,
    "alltoall": alltoall, "barrier": barrier,
}  # fmt: skip
