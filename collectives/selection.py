"""How a call is done: which algorithm, and with which operation on pieces of the buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from . import native
from .arrays import whole
from .execute import Combine
from .reduction import Reduction
from .shared import CHUNK
from .table import TABLE, Entry, choose, lookup
from .transport import Transport

Array = NDArray[Any]
NAMES = ("one_shot", "two_shot")  # of allreduce through shared memory
View = Callable[[Array], Array]  # gives a flat buffer the shape that the caller knows


class Way(NamedTuple):
    """A schedule with a way to combine, or MPI's own call."""

    entry: Entry | None
    native: native.Native | None = None
    combine: Combine | None = None


# Bytes from which it pays that every rank combines a slice only, as measured on 2 cores under Open
# MPI 5.0.11 and MPICH 5.0.2, 2026-11-21 (scripts/bench_allreduce.py).
TWO_SHOT_FROM_AT_2_RANKS = 64 << 10
TWO_SHOT_FROM = 128 << 10


def sharing(name: str, x: Array, size: int, op: Reduction) -> str | None:
    """The way of an allreduce through memory that ranks share, if it is to go there."""
    if not op.commutative or x.itemsize > CHUNK:  # takes only whole arrays; has no room
        return None
    if name in NAMES:
        return name
    if name != "auto":
        return None
    two_shot_from = TWO_SHOT_FROM if size > 2 else TWO_SHOT_FROM_AT_2_RANKS
    return "two_shot" if x.nbytes >= two_shot_from else "one_shot"


def moving(transport: Transport, collective: str, name: str, buffer: Array) -> Way:
    """The way to move blocks of a buffer whose size all ranks agree on."""
    if name == "mpi":
        call = native.find(transport, collective, buffer.dtype, buffer.nbytes, None)
        if call is not None:
            return Way(None, call)
    if name in ("auto", "mpi"):
        name = choose(collective, buffer.nbytes, transport.size, ordered=False)
    return Way(lookup(collective, name))


def reducing(
    transport: Transport, collective: str, name: str, x: Array, op: Reduction, view: View
) -> Way:
    """The way to combine arrays like x; ValueError if it would break an order that matters."""
    if name == "mpi":
        call = native.find(transport, collective, x.dtype, x.nbytes, op)
        if call is not None:
            return Way(None, call)
    if name in ("auto", "mpi") or (collective == "allreduce" and name in NAMES):
        name = choose(collective, x.nbytes, transport.size, ordered=not op.commutative)
    entry = lookup(collective, name)
    if op.commutative:
        return Way(entry, combine=op.function)
    if not (entry.ordered and entry.whole):
        entries = TABLE[collective].items()
        known = ", ".join(other for other, e in entries if e.ordered and e.whole)
        raise ValueError(
            f"expected an algorithm that keeps the order of ranks and whole arrays ({known}) for "
            f"op {op.name!r}, got {name!r}"
        )
    return Way(entry, combine=whole(op.function, view))
