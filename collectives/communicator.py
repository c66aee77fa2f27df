"""The communicator: collectives on numpy arrays, each run as a schedule."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array, axis, settled, target, with_dim
from .blocks import Offsets, back, even, front, offsets, resized, row, split
from .endpoint import Endpoint
from .execute import compiled, execute
from .header import Header, agree, announced, gathered
from .reduction import Op, Reduction, reduction
from .selection import Way, moving, reducing, sharing
from .shared import Shared, described, share
from .table import Option, segments

Array = NDArray[Any]


class Communicator(Endpoint):
    """A group of ranks and the calls that they make together.

    Every rank of the group makes the same calls in the same order. In all of them `x` is an array
    or a list, of any dtype but object and of any memory order; results are C-contiguous. `out`
    takes the result and may be `x` or overlap it. `algorithm` is a name of table.py, "mpi" for
    MPI's own call (ours where MPI has none) or "auto". `dim` may be negative; where one is needed
    a 0-d array counts as one of a single element. Where ranks hold unequal parts, counts= (the
    length along dim of every rank) saves asking for them.

    Errors: ValueError and TypeError for what is wrong on this rank, before anything is sent;
    MismatchError, on every rank, where what they bring does not fit. After any other error in the
    midst of a call the communicator refuses further ones: ranks may have stopped at different
    places.
    """

    _nodes: tuple[int, ...] = ()  # of each rank, once an algorithm has asked

    @functools.cached_property
    def _shared(self) -> Shared | None:
        """The memory that all ranks share, if they do. The first use is collective."""
        return share(self._alive(), self._told)

    def _told(self, mine: Sequence[int]) -> list[list[int]]:
        """As many numbers from every rank, by rank."""
        rows = np.empty((self.size, len(mine)), np.int64)
        rows[self.rank] = mine
        self._move("allgather", rows.reshape(-1), offsets((len(mine),) * self.size))
        return rows.tolist()

    def free(self) -> None:
        self.__dict__.pop("_shared", None)
        super().free()

    def _refuse(self, error: BaseException) -> None:
        super()._refuse(error)
        shared: Shared | None = self.__dict__.get("_shared")
        if shared is not None:
            shared.leave(error)

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
        return Communicator(transport.group(members)) if self.rank in members else None

    def allreduce(
        self, x: ArrayLike, op: Op = "sum", *, out: Array | None = None, algorithm: str = "auto"
    ) -> Array:
        """Combine the arrays of all ranks, element by element; everyone gets the result.

        `op` is a name (sum prod min max mean band bor bxor land lor lxor), the builtin sum, min or
        max, a ufunc, or a function of two whole arrays; functions keep the order of ranks.
        """
        x = as_array(x)
        how = reduction(op, x.dtype)
        name = sharing(algorithm, x, self.size, how)
        if name is not None and self._alive() and self._shared is not None:
            return self._through_memory(self._shared, name, x, how, out)
        return self._combined("allreduce", x, op, None, out, algorithm)

    def _through_memory(
        self, shared: Shared, name: str, x: Array, how: Reduction, out: Array | None
    ) -> Array:
        """allreduce by an algorithm of shared.py."""
        result = target(out, x.shape, x.dtype)
        if not x.flags.c_contiguous or (result is out is not x and np.may_share_memory(out, x)):
            result[...] = x
            x = result
        call = described(name, how.name, x.dtype, x.shape)
        try:
            shared.run(call, x.reshape(-1), result.reshape(-1), how.function)
        except BaseException as error:
            self._refuse(error)
            raise
        if how.finish is not None:
            how.finish(result, self.size)
        return result if out is None else settled(result, out)

    def reduce(
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
        result = self._combined("reduce", x, op, root, out if at_root else None, algorithm)
        return result if at_root else None

    def _combined(
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
        way = reducing(
            self._alive(), collective, algorithm, x, how, lambda flat: flat.reshape(x.shape)
        )
        result = target(out, x.shape, x.dtype)
        if result is not x:
            result[...] = x
        self._run(way, result.reshape(-1), even(x.size, self.size), root)
        if how.finish is not None:
            how.finish(result, self.size)
        return settled(result, out)

    def reduce_scatter(
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
        way = reducing(
            self._alive(),
            "reduce_scatter",
            algorithm,
            x,
            how,
            lambda flat: back(flat, x.shape, dim),
        )
        lengths = split(x.shape[dim], self.size)
        shape = resized(x.shape, dim, lengths[self.rank])
        result = target(out, shape, x.dtype)
        work = np.empty(x.size, x.dtype)
        back(work, x.shape, dim)[...] = x
        where = offsets(lengths, row(x.shape, dim))
        self._run(way, work, where)
        mine = work[where[self.rank] : where[self.rank + 1]]
        result[...] = back(mine, shape, dim)
        if how.finish is not None:
            how.finish(result, self.size)
        return settled(result, out)

    def allgather(
        self,
        x: ArrayLike,
        dim: int = 0,
        *,
        counts: Sequence[int] | None = None,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """Concatenate the arrays of all ranks along dim, for everyone."""
        return self._concatenated("allgather", x, None, dim, counts, out, algorithm)

    def gather(
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
        result = self._concatenated("gather", x, root, dim, counts, out, algorithm)
        return result if at_root else None

    def _concatenated(
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
        lengths, dim = self._lengths(collective, x, dim, counts)
        shape = resized(x.shape, dim, sum(lengths))
        result = target(out, shape, x.dtype)
        way = moving(self._alive(), collective, algorithm, result)
        where = offsets(lengths, row(shape, dim))
        # Along dim 0 the result is the buffer.
        work = result.reshape(-1) if dim == 0 else np.empty(result.size, x.dtype)
        back(work[where[self.rank] : where[self.rank + 1]], x.shape, dim)[...] = x
        self._run(way, work, where, root)
        if dim != 0:
            result[...] = back(work, shape, dim)
        return settled(result, out)

    def broadcast(
        self,
        x: ArrayLike | None,
        root: int = 0,
        *,
        out: Array | None = None,
        algorithm: str = "auto",
    ) -> Array:
        """The root's array, for everyone; away from root x is not looked at."""
        here = as_array(x) if self.rank == self._peer(root, "root") else None
        dtype, shape = announced(self, here, root)
        result = target(out, shape, dtype)
        way = moving(self._alive(), "broadcast", algorithm, result)
        if here is not None and here is not result:
            result[...] = here
        self._run(way, result.reshape(-1), even(result.size, self.size), root)
        return settled(result, out)

    def scatter(
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
        dtype, whole_shape = announced(self, here, root)
        dim = axis(dim, len(whole_shape))
        lengths = split(whole_shape[dim], self.size)
        shape = resized(whole_shape, dim, lengths[self.rank])
        result = target(out, shape, dtype)
        where = offsets(lengths, row(whole_shape, dim))
        work = np.empty(where[-1], dtype) if here is None else front(here, dim)  # is only read
        way = moving(self._alive(), "scatter", algorithm, work)
        self._run(way, work, where, root)
        result[...] = back(work[where[self.rank] : where[self.rank + 1]], shape, dim)
        return settled(result, out)

    def alltoall(
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
        lengths, concat_dim = self._lengths("alltoall", x, concat_dim, counts, "concat_dim")
        split_dim = axis(split_dim, x.ndim, "split_dim")
        way = moving(self._alive(), "alltoall", algorithm, x)
        outgoing = split(x.shape[split_dim], self.size)
        shapes = [
            resized(shape, split_dim, split(shape[split_dim], self.size)[self.rank])
            for shape in (resized(x.shape, concat_dim, n) for n in lengths)
        ]
        sizes = [
            *(n * row(x.shape, split_dim) for n in outgoing),
            *(int(np.prod(shape)) for shape in shapes),
        ]
        total = sum(shape[concat_dim] for shape in shapes)
        result = target(out, resized(shapes[0], concat_dim, total), x.dtype)
        where = offsets(sizes)
        work = np.empty(where[-1], x.dtype)
        back(work[: x.size], x.shape, split_dim)[...] = x
        if way.entry is not None and way.entry.equal:
            widest = resized(x.shape, concat_dim, max(lengths))
            longest = split(widest[split_dim], self.size)[0] * row(widest, split_dim)
            self._run_equal(way, work, where, longest)
        else:
            self._run(way, work, where)
        came = zip(where[self.size :], where[self.size + 1 :], shapes, strict=False)
        pieces = [back(work[a:b], shape, split_dim) for a, b, shape in came]
        np.concatenate(pieces, concat_dim, out=result)
        return settled(result, out)

    def barrier(self, *, algorithm: str = "auto") -> None:
        """Return when every rank has called."""
        nothing = np.empty(0, np.uint8)
        way = moving(self._alive(), "barrier", algorithm, nothing)
        self._run(way, nothing, even(0, self.size), signals=True)

    def _run(
        self,
        way: Way,
        buffer: Array,
        where: Offsets,
        root: int | None = None,
        *,
        signals: bool = False,
    ) -> None:
        """Do it: in place, on a flat buffer of blocks."""
        transport = self._alive()
        try:
            if way.native is not None:
                way.native(buffer, where, root or 0)
            elif way.entry is not None:
                algorithm, takes = way.entry.algorithm, way.entry.takes
                options = {name: self._option(name, buffer.nbytes) for name in takes}
                program = compiled(
                    algorithm, self.rank, self.size, root, where, signals, **options
                )
                # As in MPI, an overflow is a value and no warning.
                with np.errstate(all="ignore"):
                    execute(program, buffer, transport, way.combine)
        except BaseException as error:
            self._refuse(error)
            raise

    def _run_equal(self, way: Way, buffer: Array, where: Offsets, length: int) -> None:
        """Do it on blocks of one length, no shorter than any block of any rank."""
        blocks = range(len(where) - 1)
        wide = np.empty((len(blocks), length), buffer.dtype)
        for b in blocks[: self.size]:
            wide[b, : where[b + 1] - where[b]] = buffer[where[b] : where[b + 1]]
        self._run(way, wide.reshape(-1), offsets((length,) * len(blocks)))
        for b in blocks[self.size :]:
            buffer[where[b] : where[b + 1]] = wide[b, : where[b + 1] - where[b]]

    def _option(self, name: Option, nbytes: int) -> int | tuple[int, ...]:
        """What an algorithm takes beside rank, size and root."""
        if name == "segments":
            return segments(nbytes, self.size)
        if not self._nodes:
            # Each node by its first rank. Ranks come here together.
            self._nodes = tuple(first for (first,) in self._told(self.node_ranks[:1]))
        return self._nodes

    def _lengths(
        self, call: str, x: Array, dim: int, counts: Sequence[int] | None, name: str = "dim"
    ) -> tuple[tuple[int, ...], int]:
        """The lengths along dim of all ranks, and dim counted from the front."""
        if counts is None:
            headers = gathered(self, Header(x.dtype, x.shape))
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

    def _move(
        self, collective: str, buffer: Array, where: Offsets, root: int | None = None
    ) -> None:
        """Run a collective that reduces nothing, on a buffer that all ranks know the layout of."""
        self._run(moving(self._alive(), collective, "auto", buffer), buffer, where, root)


def create() -> Communicator:
    """All ranks that mpirun started."""
    return Communicator.world()
