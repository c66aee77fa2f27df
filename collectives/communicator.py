"""The communicator: groups of ranks, and the collectives that move arrays as they are.

Those that combine them are in reducing.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array, axis, ordered, settled, target, with_dim
from .blocks import (
    Part,
    back,
    even,
    exchanged,
    front,
    offsets,
    resized,
    row,
    split,
    turn_back,
    turned,
)
from .calls import blocking, started
from .engine import NOTHING, Task
from .header import Header, agree, announced, but_for, gathered
from .reducing import Reducer

Array = NDArray[Any]


class Communicator(Reducer):
    """A group of ranks and the calls that they make together.

    Every rank of the group makes the same calls in the same order. In all of them `x` is an array
    or a list, of any dtype but object and of any memory order; results are C-contiguous. `out`
    takes the result and may be `x` or overlap it. `algorithm` is a name of table.py, "mpi" for
    MPI's own call (ours where MPI has none) or "auto". `dim` may be negative; where one is needed
    a 0-d array counts as one of a single element. Where ranks hold unequal parts, counts= (the
    length along dim of every rank) saves asking for them.

    Every collective has an i-form, which returns a Work at once (work.py). Of a call by "mpi" all
    ranks take the same form: MPI never matches one that blocks with one that is begun. That goes
    for "auto" too where a table of `rankwise bench --tune` names "mpi".

    Errors: ValueError and TypeError for what is wrong on this rank, before anything is sent;
    MismatchError, on every rank, where what they bring does not fit: always found where ranks tell
    each other anyway, and wherever calls differ in a communicator that is `checked`. After any
    other error in the midst of a call the communicator refuses further ones: ranks may have
    stopped at different places. A rank that ends, or leaves its `with` by an error, tells those
    that wait for it in shared memory; who waits for its messages waits until the timeout.
    """

    def split(self, color: int | None, key: int = 0) -> Communicator | None:
        """One communicator to each color, ranks ordered by key, then rank; None for no color."""
        here = np.array([color is not None, color or 0, key], np.int64)
        chosen = self.allgather(here, counts=(3,) * self.size).reshape(self.size, 3).tolist()
        if color is None:
            return None
        mine = [rank for rank in range(self.size) if chosen[rank][:2] == [1, color]]
        return self.group(sorted(mine, key=lambda rank: (chosen[rank][2], rank)))

    def group(self, ranks: Sequence[int]) -> Communicator | None:
        """A communicator of these ranks, in this order; None for the others, who need not call."""
        transport, members = self._alive(), tuple(ranks)
        if len(set(members)) < len(members) or not all(0 <= r < self.size for r in members):
            raise ValueError(f"expected different ranks below {self.size}, got {list(ranks)!r}")
        if self.rank not in members:
            return None
        return Communicator(
            transport.group(members), checked=self.checked, table=self._setting.table
        )

    @blocking
    async def allgather(
        self,
        x: ArrayLike,
        dim: int = 0,
        *,
        counts: Sequence[int] | None = None,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """Concatenate the arrays of all ranks along dim, for everyone."""
        return await self._concatenated("allgather", x, None, dim, counts, out, algorithm)

    iallgather = started(allgather)

    @blocking
    async def gather(
        self,
        x: ArrayLike,
        root: int = 0,
        dim: int = 0,
        *,
        counts: Sequence[int] | None = None,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array | None:
        """allgather for the root only; the others get None, and their out is not used."""
        at_root = self.rank == self._peer(root, "root")
        out = out if at_root else None
        result = await self._concatenated("gather", x, root, dim, counts, out, algorithm)
        return result if at_root else None

    igather = started(gather)

    async def _concatenated(
        self,
        collective: str,
        x: ArrayLike,
        root: int | None,
        dim: int,
        counts: Sequence[int] | None,
        out: Array | None,
        algorithm: str,
    ) -> Array:
        """The arrays of all ranks along dim, where the collective leaves them."""
        x = with_dim(x)
        if self.checked:
            await self._agree(collective, "by", algorithm, but_for(x, dim), dim, counts, root)
        lengths, dim = await self._lengths(collective, x, dim, counts)
        shape = resized(x.shape, dim, sum(lengths))
        result = target(out, shape, x.dtype)
        how_to = self._way(collective, algorithm, result.dtype, result.nbytes)
        where = offsets(lengths, row(shape, dim))
        mine, everything = Part(front(x, dim), where[self.rank]), Part(turned(result, dim))
        await self._do(how_to, Task(collective, mine, everything, self._all(where), root))
        turn_back(everything.flat, result, dim)
        return settled(result, out)

    @blocking
    async def broadcast(
        self,
        x: ArrayLike | None,
        root: int = 0,
        *,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """The root's array, for everyone; away from root x is not looked at."""
        here = as_array(x) if self.rank == self._peer(root, "root") else None
        if self.checked:
            await self._agree("broadcast", "by", algorithm, root)
        dtype, shape = await announced(self, "broadcast", here, root)
        result = target(out, shape, dtype)
        how_to = self._way("broadcast", algorithm, dtype, result.nbytes)
        source = Part(np.empty(0, dtype) if here is None else ordered(here, result))
        where = self._all(even(result.size, self.size))
        await self._do(how_to, Task("broadcast", source, Part(result.reshape(-1)), where, root))
        return settled(result, out)

    ibroadcast = started(broadcast)

    @blocking
    async def scatter(
        self,
        x: ArrayLike | None,
        root: int = 0,
        dim: int = 0,
        *,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """Each rank's part of the root's array along dim, cut as numpy.array_split does."""
        here = with_dim(x) if self.rank == self._peer(root, "root") else None
        if self.checked:
            await self._agree("scatter", "by", algorithm, root, dim)
        dtype, whole_shape = await announced(self, "scatter", here, root)
        dim = axis(dim, len(whole_shape))
        lengths = split(whole_shape[dim], self.size)
        shape = resized(whole_shape, dim, lengths[self.rank])
        result = target(out, shape, dtype)
        where = offsets(lengths, row(whole_shape, dim))
        how_to = self._way("scatter", algorithm, dtype, where[-1] * dtype.itemsize)
        source = Part(np.empty(0, dtype) if here is None else front(here, dim))
        mine = Part(turned(result, dim), where[self.rank])
        await self._do(how_to, Task("scatter", source, mine, self._all(where), root))
        turn_back(mine.flat, result, dim)
        return settled(result, out)

    iscatter = started(scatter)

    @blocking
    async def alltoall(
        self,
        x: ArrayLike,
        split_dim: int = 0,
        concat_dim: int = 0,
        *,
        counts: Sequence[int] | None = None,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """Cut along split_dim, part j for rank j; concatenate what comes along concat_dim.

        Ranks may differ in length along concat_dim, which `counts` gives.
        """
        x = with_dim(x)
        if self.checked:
            what = f"{but_for(x, concat_dim)} from dim {split_dim} to dim {concat_dim}"
            await self._agree("alltoall", what, "by", algorithm, counts)
        lengths, concat_dim = await self._lengths("alltoall", x, concat_dim, counts, "concat_dim")
        split_dim = axis(split_dim, x.ndim, "split_dim")
        shapes = tuple(resized(x.shape, concat_dim, length) for length in lengths)
        widest = max(map(math.prod, shapes)) * x.itemsize
        how_to = self._way("alltoall", algorithm, x.dtype, widest)
        where = exchanged(shapes, split_dim)
        came = [
            resized(shape, split_dim, split(shape[split_dim], self.size)[self.rank])
            for shape in shapes
        ]
        total = sum(shape[concat_dim] for shape in came)
        result = target(out, resized(came[0], concat_dim, total), x.dtype)
        incoming = Part(np.empty(result.size, x.dtype), x.size)
        await self._do(how_to, Task("alltoall", Part(front(x, split_dim)), incoming, where))
        ends = itertools.pairwise(where[self.rank][self.size :])
        pieces = [incoming.flat[a - x.size : b - x.size] for a, b in ends]
        turned_back = [
            back(piece, shape, split_dim) for piece, shape in zip(pieces, came, strict=True)
        ]
        np.concatenate(turned_back, concat_dim, out=result)
        return settled(result, out)

    ialltoall = started(alltoall)

    @blocking
    async def barrier(self, *, algorithm: str = "auto") -> None:
        """Return when every rank has called."""
        if self.checked:
            await self._agree("barrier", "by", algorithm)
        how_to = self._way("barrier", algorithm, NOTHING.dtype, 0)
        nothing, where = Part(NOTHING), self._all(even(0, self.size))
        await self._do(how_to, Task("barrier", nothing, nothing, where))

    ibarrier = started(barrier)

    async def _lengths(
        self, call: str, x: Array, dim: int, counts: Sequence[int] | None, name: str = "dim"
    ) -> tuple[tuple[int, ...], int]:
        """The lengths along dim of all ranks, and dim counted from the front."""
        if counts is None:
            headers = await gathered(self, call, Header(x.dtype, x.shape))
            agree(call, headers, (dim,))
            dim = axis(dim, x.ndim, name)
            return tuple(header.shape[dim] for header in headers), dim
        dim, lengths = axis(dim, x.ndim, name), tuple(counts)
        if len(lengths) != self.size or lengths[self.rank] != x.shape[dim]:
            raise ValueError(
                f"expected counts of {self.size} ranks, {x.shape[dim]} for rank {self.rank}, "
                f"got {list(counts)!r}"
            )
        return lengths, dim


def create() -> Communicator:
    """All ranks that mpirun started."""
    return Communicator.world()
