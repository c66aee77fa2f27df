"""How a call is done: which algorithm, and with which operation on pieces of the buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from . import native
from .arrays import whole
from .execute import Combine
from .reduction import Reduction
from .schedule import Algorithm
from .table import TABLE, choose, lookup
from .transport import Transport

Array = NDArray[Any]
View = Callable[[Array], Array]  # gives a flat buffer the shape that the caller knows


class Way(NamedTuple):
    """A schedule with a way to combine, or MPI's own call."""

    algorithm: Algorithm | None
    native: native.Call | None = None
    combine: Combine | None = None


def moving(transport: Transport, collective: str, name: str, buffer: Array) -> Way:
    """The way to move blocks of a buffer whose size all ranks agree on."""
    if name == "mpi":
        call = native.find(transport, collective, buffer.dtype, buffer.nbytes, None)
        if call is not None:
            return Way(None, call)
    if name in ("auto", "mpi"):
        name = choose(collective, buffer.nbytes, transport.size, ordered=False)
    return Way(lookup(collective, name).algorithm)


def reducing(
    transport: Transport, collective: str, name: str, x: Array, op: Reduction, view: View
) -> Way:
    """The way to combine arrays like x; ValueError if it would break an order that matters."""
    if name == "mpi":
        call = native.find(transport, collective, x.dtype, x.nbytes, op)
        if call is not None:
            return Way(None, call)
    if name in ("auto", "mpi"):
        name = choose(collective, x.nbytes, transport.size, ordered=not op.commutative)
    entry = lookup(collective, name)
    if op.commutative:
        return Way(entry.algorithm, combine=op.function)
    if not entry.ordered:
        known = ", ".join(other for other, e in TABLE[collective].items() if e.ordered)
        raise ValueError(
            f"expected an algorithm that keeps the order of ranks ({known}) for "
            f"op {op.name!r}, got {name!r}"
        )
    return Way(entry.algorithm, combine=whole(op.function, view))
