"""Collectives that combine arrays: allreduce, reduce and reduce_scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .allreduce import (
    Plan,
    described,
    one_chunk,
    one_shot,
    single_copy,
    slots,
    two_shot,
    viewed,
)
from .arena import arena
from .arrays import as_array, axis, ordered, settled, target, with_dim
from .blocks import Part, back, even, front, offsets, resized, row, split, turn_back, turned
from .calls import blocking, started
from .engine import Engine, Task
from .errors import MismatchError
from .native import find
from .reduction import Op, reduction
from .selection import on_whole, way
from .shared import CHUNK, SLOT

Array = NDArray[Any]
SHARED = {"one_shot": one_shot, "two_shot": two_shot, "single_copy": single_copy}
PLANS = 1024  # of allreduce that are kept, one for each kind of call


class Reducer(Engine):
    """An engine with the calls that combine the arrays of all ranks."""

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> Array:
        """An array in memory that the node's ranks can read: no collective need copy it there.

        A local call. Where there is no such memory the array is an ordinary one. It may be used
        with any communicator.
        """
        kind = np.dtype(dtype)
        whole = (shape,) if isinstance(shape, int) else tuple(shape)
        count = math.prod(whole)
        memory = arena() if self._transport.has_processes and count else None
        found = None if memory is None else memory.empty(count * kind.itemsize)
        return np.empty(whole, kind) if found is None else found.view(kind).reshape(whole)

    def allreduce(
        self,
        x: ArrayLike,
        op: Op = "sum",
        *,
        out: Array | None = None,
        algorithm: str = "auto",
        view: bool = False,
    ) -> Array:
        """Combine the arrays of all ranks, element by element; everyone gets the result.

        `op` is a name (sum prod min max mean band bor bxor land lor lxor), the builtin sum, min or
        max, a ufunc, or a function of two whole arrays; functions keep the order of ranks.

        With `view` the result can only be read. The ranks of one node share it, where there is
        memory for that, and it stays true as long as something refers to it.
        """
        result = None if view else self._at_once(x, op, out, algorithm)
        if result is None:
            result = self._allreduce(x, op, out=out, algorithm=algorithm, view=view)
        return result

    def _at_once(self, x: ArrayLike, op: Op, out: Array | None, algorithm: str) -> Array | None:
        """An allreduce of a kind that was done before, by one_shot in one chunk or by MPI.

        It is what those do, without the coroutines that others could run beside, which would take
        longer than a few bytes do. None where it is anything else.
        """
        if type(x) is not np.ndarray or not x.flags.c_contiguous or self._line.works:
            return None
        try:
            plan = self._plans[op, algorithm, x.dtype, x.shape]
        except (KeyError, TypeError):  # TypeError: a callable object without a hash
            return None
        shared = self._shared
        if plan.native is None and not (plan.is_chunk and shared is not None):
            return None
        result = target(out, x.shape, x.dtype)
        if plan.native is not None and result is not x and np.may_share_memory(x, result):
            return None
        self._alive()
        try:
            if plan.native is not None:
                plan.native.reduce(x, result)
            else:
                assert shared is not None
                one_chunk(shared, plan, x, result)
        except MismatchError:  # all ranks see it, before anything has moved
            raise
        except BaseException as error:
            self._refuse(error)
            raise
        if plan.how.finish is not None:
            plan.how.finish(result, self.size)
        return result if out is None else settled(result, out)

    @blocking
    async def _allreduce(
        self,
        x: ArrayLike,
        op: Op = "sum",
        *,
        out: Array | None = None,
        algorithm: str = "auto",
        view: bool = False,
    ) -> Array:
        """allreduce of any kind."""
        x = as_array(x)
        if not view:
            return await self._reduced(x, op, out, algorithm)
        if out is not None:
            raise ValueError("expected out or view, got both")
        result = await self._viewed(x, op, algorithm)
        if result is None:
            result = await self._reduced(x, op, None, algorithm)
        result.flags.writeable = False
        return result

    iallreduce = started(_allreduce)

    async def _reduced(self, x: Array, op: Op, out: Array | None, algorithm: str) -> Array:
        """allreduce through memory or messages."""
        shared = self._shared
        how, name, what, *_ = self._planned(x, op, algorithm)
        if shared is None or what is None:
            return await self._combined("allreduce", x, op, None, out, algorithm)
        if out is None and name != "one_shot" and shared.place(x):
            out = self.empty(x.shape, x.dtype)
        result = target(out, x.shape, x.dtype)
        if not x.flags.c_contiguous or (result is out is not x and np.may_share_memory(out, x)):
            result[...] = x
            x = result
        if not how.elementwise:
            how = on_whole(how, lambda flat: flat.reshape(x.shape), x.nbytes)
        run = SHARED[name]
        await self._guarded(run(shared, what, x.reshape(-1), result.reshape(-1), how))
        if how.finish is not None:
            how.finish(result, self.size)
        return result if out is None else settled(result, out)

    def _planned(self, x: Array, op: Op, algorithm: str) -> Plan:
        """What is known of this kind of allreduce."""
        key = op, algorithm, x.dtype, x.shape
        try:
            return self._plans[key]
        except (KeyError, TypeError):  # TypeError: a callable object without a hash
            how = reduction(op, x.dtype)
        name = self._chosen("allreduce", algorithm, x.nbytes, x.dtype, how)
        what = described(name, how.name, x.dtype, x.shape) if name in SHARED else None
        native = None
        if name == "mpi" and not self.checked:
            native = find(self._alive(), "allreduce", x.dtype, x.nbytes, how)
        shared = self._shared
        is_chunk = shared is not None and name == "one_shot" and x.nbytes <= CHUNK
        is_short = is_chunk and x.nbytes <= SLOT and not how.rounds
        places = slots(shared, x) if shared is not None and is_short else None
        plan = Plan(how, name, what, native, is_chunk, places)
        if isinstance(op, str):
            if len(self._plans) == PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    async def _viewed(self, x: Array, op: Op, algorithm: str) -> Array | None:
        """allreduce into memory that ranks share; None where they do not, or it is full."""
        shared = self._shared
        how, _, for_memory, *_ = self._planned(x, op, algorithm)
        if shared is None or for_memory is None or not x.nbytes or not how.elementwise:
            return None
        what = described("view", how.name, x.dtype, x.shape)
        flat = np.ascontiguousarray(x).reshape(-1)
        result = await self._guarded(viewed(shared, what, flat, how))
        return None if result is None else result.reshape(x.shape)

    @blocking
    async def reduce(
        self,
        x: ArrayLike,
        op: Op = "sum",
        root: int = 0,
        *,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array | None:
        """allreduce for the root only; the others get None, and their out is not used."""
        at_root = self.rank == self._peer(root, "root")
        result = await self._combined("reduce", x, op, root, out if at_root else None, algorithm)
        return result if at_root else None

    ireduce = started(reduce)

    async def _combined(
        self,
        collective: str,
        x: ArrayLike,
        op: Op,
        root: int | None,
        out: Array | None,
        algorithm: str,
    ) -> Array:
        """The combination of all ranks' arrays, where the collective leaves it."""
        x = as_array(x)
        how = reduction(op, x.dtype)
        if self.checked:
            await self._agree(collective, how.name, "by", algorithm, x.dtype, x.shape, root)
        name = self._chosen(collective, algorithm, x.nbytes, x.dtype, how)
        how_to = way(
            self._alive(),
            collective,
            name,
            x.dtype,
            x.nbytes,
            how,
            lambda flat: flat.reshape(x.shape),
        )
        result = target(out, x.shape, x.dtype)
        source, whole = Part(ordered(x, result)), Part(result.reshape(-1))
        where = self._all(even(x.size, self.size))
        await self._do(how_to, Task(collective, source, whole, where, root))
        if how.finish is not None and root in (None, self.rank):
            how.finish(result, self.size)
        return settled(result, out)

    @blocking
    async def reduce_scatter(
        self,
        x: ArrayLike,
        op: Op = "sum",
        dim: int = 0,
        *,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """allreduce of which every rank gets its part along dim, cut as numpy.array_split does."""
        x = with_dim(x)
        dim = axis(dim, x.ndim)
        how = reduction(op, x.dtype)
        if self.checked:
            await self._agree("reduce_scatter", how.name, "by", algorithm, x.dtype, x.shape, dim)
        name = self._chosen("reduce_scatter", algorithm, x.nbytes, x.dtype, how)
        how_to = way(
            self._alive(),
            "reduce_scatter",
            name,
            x.dtype,
            x.nbytes,
            how,
            lambda flat: back(flat, x.shape, dim),
        )
        lengths = split(x.shape[dim], self.size)
        shape = resized(x.shape, dim, lengths[self.rank])
        result = target(out, shape, x.dtype)
        where = offsets(lengths, row(x.shape, dim))
        mine = Part(turned(result, dim), where[self.rank])
        await self._do(how_to, Task("reduce_scatter", Part(front(x, dim)), mine, self._all(where)))
        turn_back(mine.flat, result, dim)
        if how.finish is not None:
            how.finish(result, self.size)
        return settled(result, out)

    ireduce_scatter = started(reduce_scatter)
