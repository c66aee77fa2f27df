"""How a call is done: which algorithm, and with which operation on pieces of the buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import native
from .arrays import whole
from .choice import Choice, Setting, automatic, keeps
from .execute import Combine
from .reduction import Reduction
from .table import TABLE, Entry, lookup
from .transport import Transport

Array = NDArray[Any]
View = Callable[[Array], Array]  # gives a flat buffer the shape that the caller knows


class Way(NamedTuple):
    """A schedule with a way to combine, or MPI's own call."""

    entry: Entry | None
    native: native.Native | None = None
    combine: Combine | None = None
    op: Reduction | None = None


def chosen(
    transport: Transport,
    setting: Setting,
    collective: str,
    name: str,
    nbytes: int,
    dtype: np.dtype[Any],
    op: Reduction | None = None,
) -> Choice:
    """The algorithm that is meant by a name, which may be "auto", and cannot always be had."""
    if name == "auto":
        return automatic(setting, collective, nbytes, dtype, op)
    obstacle = ""
    if name == "mpi":
        if native.find(transport, collective, dtype, nbytes, op) is None:
            obstacle = f"MPI has no such {collective} for {dtype}" + (
                f" and {op.name}" if op else ""
            )
    elif lookup(collective, name).shared:
        obstacle = setting.obstacle(collective, name, nbytes, dtype, op) or ""
    if not obstacle:
        return Choice(name, "asked for")
    instead = automatic(setting._replace(table=None), collective, nbytes, dtype, op)
    return Choice(instead.algorithm, obstacle)


def way(
    transport: Transport,
    collective: str,
    name: str,
    dtype: np.dtype[Any],
    nbytes: int,
    op: Reduction | None = None,
    view: View | None = None,
) -> Way:
    """How to do it by an algorithm that was chosen; ValueError if it breaks an order that matters.

    nbytes are those of the arrays that are combined, or of the buffer of what is moved.
    """
    if name == "mpi":
        call = native.find(transport, collective, dtype, nbytes, op)
        if call is not None:
            return Way(None, call, op=op)
        name = automatic(
            Setting(transport.size, True, False), collective, nbytes, dtype, op
        ).algorithm
    entry = lookup(collective, name)
    if op is None:
        return Way(entry)
    if not (op.commutative or keeps(entry, op)):
        known = ", ".join(other for other, e in TABLE[collective].items() if keeps(e, op))
        kept = "the order of ranks" + ("" if op.elementwise else " and whole arrays")
        raise ValueError(
            f"expected an algorithm that keeps {kept} ({known}) for op {op.name!r}, got {name!r}"
        )
    if not op.elementwise:
        assert view is not None  # comes with op
        op = on_whole(op, view, nbytes)
    return Way(entry, combine=op.function, op=op)


def on_whole(op: Reduction, view: View, nbytes: int) -> Reduction:
    """A function of whole arrays, for flat ones of so many bytes."""
    return replace(op, function=whole(op.function, view), tile=nbytes)
