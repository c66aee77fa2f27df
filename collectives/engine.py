"""What runs the calls of a group of ranks: messages, MPI's own calls, or shared memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .algorithms.shared import one_shot_allreduce
from .allreduce import Plan, one_shot
from .arena import arena
from .blocks import Offsets, Part, even, offsets
from .choice import Choice, Setting, by_messages
from .control import topic
from .endpoint import Endpoint
from .errors import MismatchError
from .execute import compiled, execute
from .loads import TILE, described, exchange, load
from .nodes import Nodes
from .reduction import Op, Reduction, reduction
from .selection import Way, chosen, way
from .shared import CHUNK, Shared, named
from .sharing import reads, share
from .table import TABLE, segments
from .transport import Transport
from .tuned import Tuned, user_file
from .waiting import Call, Patience
from .work import Line

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]
R = TypeVar("R")

REDUCING = ("allreduce", "reduce", "reduce_scatter")
AnyDType = np.dtype[Any]
NOTHING: Array = np.empty(0, np.uint8)


class Task(NamedTuple):
    """What a collective is to do: from the blocks that this rank brings to those it ends with."""

    call: str
    source: Part
    out: Part
    where: tuple[Offsets, ...]
    """offsets of every rank's blocks"""
    root: int | None = None


class Engine(Endpoint):
    """An endpoint that runs collective calls, one after another."""

    def __init__(
        self,
        comm: MPI.Comm | Transport | None = None,
        *,
        patience: Patience | None = None,
        checked: bool = False,
        table: Tuned | None = None,
    ) -> None:
        """Duplicate `comm` (the world, if None), which is collective; a Transport is taken over.

        `patience` says after how long a silent rank is warned of and given up. A `checked` one
        compares every call between ranks before it moves anything. `table` is the selection table
        to go with a Transport; the user's own is read for any other.
        """
        super().__init__(comm, patience=patience)
        self.checked = checked
        self._line = Line(self._transport)  # what was begun and not waited for
        self._nodes: Nodes | None = None  # once an algorithm has asked
        self._shared: Shared | None = None  # the memory that all ranks share, if they do
        self._has_asked = False  # for it
        self._plans: dict[tuple[Any, ...], Plan] = {}  # of allreduce, by kind
        has_one_node = len(self._transport.node_ranks) == self.size
        self._setting = Setting(self.size, has_one_node, False, table)
        if not hasattr(comm, "bytes_sent"):
            self._setting = self._setting._replace(table=self._finish(self._read_table()))

    @classmethod
    def world(cls, *, patience: Patience | None = None, checked: bool = False) -> Self:
        """All ranks that mpirun started."""
        return cls(patience=patience, checked=checked)

    def free(self) -> None:
        if self._refusal is None:
            self._line.drain()
            if self._shared is not None:
                self._shared.close()
            if self._nodes is not None:
                self._nodes.free()
        super().free()

    def _refuse(self, error: BaseException) -> None:
        super()._refuse(error)
        if self._shared is not None:
            self._shared.leave(named(error))
        if self._nodes is not None:
            self._nodes.refuse(error)

    async def _memory(self) -> Shared | None:
        """The memory that all ranks share, if they do. The first use is collective."""
        if not self._has_asked:
            self._shared = await share(self._alive(), self._told)
            self._has_asked = True
            shared = self._shared
            self._setting = self._setting._replace(
                shares_memory=shared is not None, reads=bool(shared and shared.processes)
            )
            self._plans.clear()
        return self._shared

    def _prepared(self, call: Call[R]) -> Call[R]:
        """A call that may use shared memory."""
        return call if self._has_asked else self._after_memory(call)

    async def _after_memory(self, call: Call[R]) -> R:
        try:
            await self._memory()
        except BaseException:
            call.close()
            raise
        return await call

    async def _guarded(self, call: Call[R]) -> R:
        """Run what every rank takes part in; after a failure, refuse further calls."""
        try:
            self._alive()
        except BaseException:
            call.close()
            raise
        try:
            return await call
        except MismatchError:  # all ranks see it, before anything has moved
            raise
        except BaseException as error:
            self._refuse(error)
            raise

    async def _agree(self, call: str, *what: object) -> None:
        """Raise MismatchError, on every rank, if not all call the same with the same."""
        if self.size == 1:
            return
        mine = topic(" ".join(map(str, (call, *what))))
        shared = await self._memory()
        if shared is not None:
            await self._guarded(shared.agree(mine, call))
            return
        sums = await self._told([mine.checksum])
        if all(row == sums[0] for row in sums):
            return
        rows = await self._told(np.frombuffer(mine.text, np.int64).tolist())
        texts = [np.array(row).tobytes().rstrip(b"\0").decode() for row in rows]
        other = next(rank for rank in range(self.size) if sums[rank] != sums[0])
        raise MismatchError(f"rank 0 calls {texts[0]}, but rank {other} calls {texts[other]}")

    async def _read_table(self) -> Tuned | None:
        """The user's selection table as rank 0 has it: files may differ from node to node."""
        path = user_file() if self.rank == 0 else None
        found = None if path is None else Tuned.read(path)
        text = (found.text() if found is not None else "").encode()
        length = (await self._told([len(text)]))[0][0]
        buffer = np.frombuffer(text.ljust(length), np.uint8)[:length].copy()
        await self._move("broadcast", buffer, even(length, self.size), 0)
        return Tuned.parse(buffer.tobytes().decode()) if length else None

    async def _told(self, mine: Sequence[int]) -> list[list[int]]:
        """As many numbers from every rank, by rank."""
        rows = np.empty((self.size, len(mine)), np.int64)
        rows[self.rank] = mine
        flat, where = Part(rows.reshape(-1)), offsets((len(mine),) * self.size)
        # Never by MPI's own call, which a table may name: ranks may call in both forms.
        name = by_messages("allgather", rows.nbytes, self.size, True).algorithm
        await self._carry("allgather", flat, flat, where, algorithm=name)
        return rows.tolist()

    async def _move(
        self, collective: str, buffer: Array, where: Offsets, root: int | None = None
    ) -> None:
        """Move blocks of a buffer that all ranks know the layout of."""
        await self._carry(collective, Part(buffer), Part(buffer), where, root)

    async def _carry(
        self,
        collective: str,
        source: Part,
        out: Part,
        where: Offsets,
        root: int | None = None,
        op: Reduction | None = None,
        algorithm: str = "auto",
    ) -> None:
        """Do a collective on blocks that all ranks know the layout of."""
        dtype, nbytes = out.flat.dtype, where[-1] * out.flat.itemsize
        if nbytes:
            name = self._chosen(collective, algorithm, nbytes, dtype, op)
            how = way(self._alive(), collective, name, dtype, nbytes, op)
            await self._do(how, Task(collective, source, out, self._all(where), root))

    def _all(self, where: Offsets) -> tuple[Offsets, ...]:
        """The offsets of every rank, where they are the same."""
        return (where,) * self.size

    def _chosen(
        self, collective: str, name: str, nbytes: int, dtype: AnyDType, op: Reduction | None = None
    ) -> str:
        """The algorithm that is meant by a name; all ranks must ask for as many bytes."""
        transport = self._alive()
        return chosen(transport, self._setting, collective, name, nbytes, dtype, op).algorithm

    def _way(self, collective: str, name: str, dtype: AnyDType, nbytes: int) -> Way:
        """The way to move blocks of so many bytes together."""
        name = self._chosen(collective, name, nbytes, dtype)
        return way(self._alive(), collective, name, dtype, nbytes)

    def explain(
        self,
        collective: str,
        nbytes: int,
        dtype: DTypeLike = np.float32,
        op: Op = "sum",
        algorithm: str = "auto",
    ) -> Choice:
        """Say which algorithm a call would take, and why. A local call, that sends nothing."""
        if collective not in TABLE:
            raise ValueError(f"expected a collective of {', '.join(TABLE)}, got {collective!r}")
        kind = np.dtype(dtype)
        how = reduction(op, kind) if collective in REDUCING else None
        setting = self._setting
        if not self._has_asked:
            shares = setting.has_one_node and self._transport.has_processes and self.size > 1
            own = arena() if shares else None
            setting = setting._replace(shares_memory=own is not None, reads=reads(own))
        return chosen(self._alive(), setting, collective, algorithm, nbytes, kind, how)

    async def _do(self, how: Way, task: Task) -> None:
        """Do it, one way."""
        if how.entry is not None and how.entry.shared:
            await self._guarded(self._lend(how, task))
            return
        if how.entry is not None and "nodes" in how.entry.takes and not self._setting.has_one_node:
            await self._guarded(self._in_phases(task, how.op))
            return
        call, source, out, where, root = task
        own = where[self.rank]
        is_equal = how.entry is not None and how.entry.equal
        work = source.spread(out, own[-1], is_kept=how.op is not None or is_equal)
        if is_equal:
            await self._run_equal(how, work, where)
        else:
            await self._run(how, work, own, root, signals=call == "barrier")
        Part(work).copy_into(out)

    async def _lend(self, how: Way, task: Task) -> None:
        """Do it in memory that the ranks share."""
        shared = await self._memory()
        assert how.entry is not None and shared is not None  # the choice has looked
        call, source, out, where, root = task
        dtype = source.flat.dtype
        op = how.op
        if op is not None and how.entry.algorithm is one_shot_allreduce:
            what = described(call, op.name, "one_shot", dtype, where, root)
            result = np.empty_like(source.flat)
            await one_shot(shared, what, source.flat, result, op, call)
            Part(result).copy_into(out)
            return
        most = max(1, (TILE if op is None or op.elementwise else CHUNK) // dtype.itemsize)
        plan = exchange(how.entry.algorithm, self.rank, root, where, most)
        what = described(call, op and op.name, "direct", dtype, where, root)
        source = source.beside(out)
        await load(shared, call, what, plan, source, out, op)
        if op is None:
            source.copy_into(out)

    async def _in_phases(self, task: Task, op: Reduction | None) -> None:
        """Do it node by node."""
        if self._nodes is None:
            firsts = [first for (first,) in await self._told(self.node_ranks[:1])]
            self._nodes = Nodes.around(self, firsts)
        if op is not None:
            await self._nodes.allreduce(task.source, task.out, op)
        else:
            assert task.root is not None
            await self._nodes.broadcast(task.source, task.out, task.root)

    async def _run(
        self,
        how: Way,
        buffer: Array,
        where: Offsets,
        root: int | None = None,
        *,
        signals: bool = False,
    ) -> None:
        """Do it by messages: in place, on a flat buffer of blocks."""
        transport = self._alive()
        is_begun = bool(self._line.works)
        if how.native is not None and self.checked:
            form = "begun" if is_begun else "that blocks"
            await self._agree(how.native.collective, "by MPI's call", form)
        try:
            if how.native is not None:
                # MPI's call that blocks would hold up all that was begun.
                await how.native.run(buffer, where, root or 0, blocks=not is_begun)
            elif how.entry is not None:
                algorithm, takes = how.entry.algorithm, how.entry.takes
                options: dict[str, Any] = {}
                if "nodes" in takes:
                    options["nodes"] = (0,) * self.size  # there is one, where tiles save nothing
                elif "segments" in takes:
                    options["segments"] = segments(buffer.nbytes, self.size)
                program = compiled(
                    algorithm, self.rank, self.size, root, where, signals, **options
                )
                await execute(program, buffer, transport, how.combine)
        except BaseException as error:
            self._refuse(error)
            raise

    async def _run_equal(self, how: Way, buffer: Array, where: tuple[Offsets, ...]) -> None:
        """Do it on blocks of one length, that of the longest block of any rank."""
        length = max(b - a for of_one in where for a, b in itertools.pairwise(of_one))
        own = where[self.rank]
        blocks = range(len(own) - 1)
        wide = np.empty((len(blocks), length), buffer.dtype)
        for b in blocks[: self.size]:
            wide[b, : own[b + 1] - own[b]] = buffer[own[b] : own[b + 1]]
        await self._run(how, wide.reshape(-1), offsets((length,) * len(blocks)))
        for b in blocks[self.size :]:
            buffer[own[b] : own[b + 1]] = wide[b, : own[b + 1] - own[b]]
