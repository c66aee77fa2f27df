"""A rank's place in a group: its life, and messages to and from single ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array, like
from .errors import CollectiveError, MismatchError
from .transport import Requests, Transport
from .waiting import Call, Patience, finish, until
from .work import Line, Work

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]
T = TypeVar("T")


class Endpoint:
    """One rank of a group. It is freed by all its ranks, or left to the end of the program."""

    def __init__(
        self, comm: MPI.Comm | Transport | None = None, *, patience: Patience | None = None
    ) -> None:
        """Duplicate `comm` (the world, if None), which is collective; a Transport is taken over.

        `patience` says after how long a silent rank is warned of and given up.
        """
        self._transport: Transport = opened(comm, patience or Patience())
        self._refusal: str | None = None
        self.rank: int = self._transport.rank
        self.size: int = self._transport.size

    @classmethod
    def world(cls, *, patience: Patience | None = None) -> Self:
        """All ranks that mpirun started."""
        return cls(patience=patience)

    def __repr__(self) -> str:
        state = f", {self._refusal}" if self._refusal else ""
        return f"{type(self).__name__}(rank={self.rank}, size={self.size}{state})"

    def free(self) -> None:
        """Give the resources back; collective. A second call does nothing."""
        if self._refusal != "freed":
            self._refusal = "freed"
            self._transport.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        # After an error the others may never come to free with us, and the wait would hide it.
        if error is None:
            self.free()
        else:
            self._refuse(error)

    def abort(self, code: int) -> None:
        """End all ranks of the program with this exit code, at once."""
        self._transport.abort(code)

    @property
    def bytes_sent(self) -> int:
        """Bytes that this rank has sent, those inside MPI's own collectives not counted."""
        return self._transport.bytes_sent

    @property
    def node_ranks(self) -> tuple[int, ...]:
        """The ranks of this rank's node, itself among them."""
        return self._alive().node_ranks

    def send(self, x: ArrayLike, dest: int, tag: int = 0) -> None:
        """Send an array to one rank; returns when x may be changed."""
        self._finish(self._sending(x, dest, tag))

    def isend(self, x: ArrayLike, dest: int, tag: int = 0) -> Work[None]:
        """Begin to send an array, which must not change until the work is done."""
        return self._begun(self._sending(x, dest, tag))

    def recv(self, out_or_like: Any, source: int, tag: int = 0) -> Array:
        """Receive an array from one rank.

        A writable array is filled and returned; anything else says shape and dtype of a new one.
        MismatchError if the message is of another length; one that is longer is written nowhere.
        """
        return self._finish(self._receiving(out_or_like, source, tag))

    def irecv(self, out_or_like: Any, source: int, tag: int = 0) -> Work[Array]:
        """Begin to receive an array.

        Below MPI_THREAD_MULTIPLE a long message comes while this rank waits in any call but those
        by algorithm="mpi".
        """
        return self._begun(self._receiving(out_or_like, source, tag))

    def sendrecv(
        self, x: ArrayLike, dest: int, out_or_like: Any, source: int, tag: int = 0
    ) -> Array:
        """Send to one rank while receiving from another, or the same; x may be received into."""
        return self._finish(self._exchanging(x, dest, out_or_like, source, tag))

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Sends and receives that are posted together and complete when the block ends.

        with comm.batch() as batch:
            batch.send(x, right)
            y = batch.recv(x, left)    # is filled at the end of the block

        Every message is finished before the first error is raised. An error of the block's own
        leaves them under way, and breaks the communicator.
        """
        batch = Batch(self)
        try:
            yield batch
        except BaseException as error:
            if batch.works:
                self._refuse(error)
            raise
        batch.complete()

    async def _sending(self, x: ArrayLike, dest: int, tag: int) -> None:
        data, tag = contiguous(x), self._tag(tag)
        transport, peer = self._alive(), self._peer(dest, "dest")
        requests: Requests = []
        try:
            requests = transport.isend(data.view(np.uint8), peer, tag)
            await until(transport.pending(requests, (peer,)))
        except BaseException as error:
            transport.abandon(requests)
            self._refuse(error)
            raise

    async def _exchanging(
        self, x: ArrayLike, dest: int, out_or_like: Any, source: int, tag: int
    ) -> Array:
        data, out = contiguous(x), like(out_or_like)
        if np.may_share_memory(data, out):
            data = data.copy()
        transport, peer = self._alive(), self._peer(dest, "dest")
        source, tag, work = self._peer(source, "source"), self._tag(tag), in_order(out)
        requests: Requests = []
        try:
            requests = transport.isend(data.view(np.uint8), peer, tag)
            length = await transport.receive(work.reshape(-1).view(np.uint8), source, tag)
            await until(transport.pending(requests, (peer,)))
        except BaseException as error:
            transport.abandon(requests)
            self._refuse(error)
            raise
        return self._received(out, work, length, source)

    async def _receiving(self, out_or_like: Any, source: int, tag: int) -> Array:
        out, tag = like(out_or_like), self._tag(tag)
        transport, peer, work = self._alive(), self._peer(source, "source"), in_order(out)
        try:
            length = await transport.receive(work.reshape(-1).view(np.uint8), peer, tag)
        except BaseException as error:
            self._refuse(error)
            raise
        return self._received(out, work, length, source)

    def _received(self, out: Array, work: Array, length: int, source: int) -> Array:
        """`out`, with what has come into `work`; MismatchError if that is of another length."""
        if length != work.nbytes:
            raise MismatchError(
                f"rank {self.rank} expected {work.nbytes} bytes of rank {source} for "
                f"{out.dtype} {out.shape}, got a {'short' if length < work.nbytes else 'long'}er "
                f"message of {length} bytes"
            )
        if work is not out:
            out[...] = work
        return out

    def _finish(self, call: Call[T]) -> T:
        return finish(call, self._transport)

    def _begun(self, call: Call[T]) -> Work[T]:
        """Start a call that need not wait for the collectives under way."""
        line = Line(self._transport)
        work = line.start(call)
        line.serve()
        return work

    def _alive(self) -> Transport:
        if self._refusal is not None:
            raise CollectiveError(f"expected a communicator in working order, got {self!r}")
        return self._transport

    def _refuse(self, error: BaseException) -> None:
        is_dropped = isinstance(error, GeneratorExit)
        what = "a Work that nobody waited for" if is_dropped else type(error).__name__
        self._refusal = self._refusal or f"broken by {what}"

    def _peer(self, rank: int, name: str) -> int:
        if not 0 <= rank < self.size:
            raise ValueError(f"expected {name} from 0 to {self.size - 1}, got {rank!r}")
        return rank

    def _tag(self, tag: int) -> int:
        """The transport's tag: collectives have 0."""
        largest = self._transport.largest_tag - 1
        if not 0 <= tag <= largest:
            raise ValueError(f"expected tag from 0 to {largest}, got {tag!r}")
        return tag + 1


def opened(comm: MPI.Comm | Transport | None, patience: Patience) -> Transport:
    """A transport as it is; anything else must be MPI's and is duplicated."""
    if hasattr(comm, "bytes_sent"):
        return cast(Transport, comm)
    from .mpi import duplicate  # here, since it starts MPI

    return duplicate(comm, patience)


def contiguous(x: ArrayLike) -> Array:
    """The elements in C order, flat."""
    return np.ascontiguousarray(as_array(x)).reshape(-1)


def in_order(out: Array) -> Array:
    """The array itself, or another one for its elements in C order."""
    return out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)


class Batch:
    """Sends and receives to be completed together."""

    def __init__(self, comm: Endpoint) -> None:
        self.comm = comm
        self.works: list[Work[Any]] = []

    def send(self, x: ArrayLike, dest: int, tag: int = 0) -> None:
        """Send an array, which must not change before the batch is complete."""
        self.post(self.comm._sending(x, dest, tag))

    def recv(self, out_or_like: Any, source: int, tag: int = 0) -> Array:
        """Receive into the array that is returned, by the time when the batch is complete."""
        result = like(out_or_like)
        self.post(self.comm._receiving(result, source, tag))
        return result

    def complete(self) -> None:
        """Return when all messages have left and come, or raise the first of their errors."""
        errors = []
        while self.works:
            try:
                self.works[0].wait()
            except CollectiveError as error:
                errors.append(error)
            del self.works[0]
        if errors:
            raise errors[0]

    def post(self, call: Call[Any]) -> None:
        self.works.append(Line(self.comm._transport).start(call))
