"""The transport between threads of one process: for tests, and for trying things without MPI."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .errors import CollectiveTimeout, MismatchError, RankFailure
from .transport import Bytes, Requests
from .waiting import Patience, Wait, until

if TYPE_CHECKING:
    from .communicator import Communicator

T = TypeVar("T")
SHORTEST_PAUSE_S = 0.0002

Context = tuple[object, ...]  # tells the messages of one group from those of another
Address = tuple[Context, int, int]  # a context, the sender's rank in it, a tag


class World:
    """What the threads share: a mailbox to each, and who failed first."""

    def __init__(self, size: int, timeout: float) -> None:
        self.timeout = timeout
        self.changed = [threading.Condition() for _ in range(size)]
        self.mail: list[dict[Address, deque[Bytes]]] = [{} for _ in range(size)]
        self.failed: tuple[int, BaseException] | None = None

    def fail(self, rank: int, error: BaseException) -> None:
        """Remember the first failure and wake all who wait."""
        if self.failed is None:
            self.failed = rank, error
        for condition in self.changed:
            with condition:
                condition.notify_all()


class Landing(NamedTuple):
    """A receive that has been posted."""

    data: Bytes
    peer: int
    tag: int


class LocalTransport:
    """Bytes between threads. A send copies its message and is complete at once."""

    largest_tag = (1 << 31) - 1
    looks = 1
    has_processes = False
    is_threaded = True

    def __init__(
        self, world: World, members: tuple[int, ...], rank: int, context: Context
    ) -> None:
        self.world = world
        self.members = members  # the thread of each rank of the group
        self.rank = rank
        self.size = len(members)
        self.context = context
        self.bytes_sent = 0
        self.patience = Patience(timeout=world.timeout)
        self.groups: dict[tuple[int, ...], int] = {}

    @property
    def node_ranks(self) -> tuple[int, ...]:
        return tuple(range(self.size))

    def isend(self, data: Bytes, peer: int, tag: int) -> Requests:
        self.bytes_sent += data.nbytes
        thread = self.members[peer]
        with self.world.changed[thread]:
            box = self.world.mail[thread].setdefault((self.context, self.rank, tag), deque())
            box.append(data.copy())
            self.world.changed[thread].notify()
        return []

    def irecv(self, data: Bytes, peer: int, tag: int) -> Requests:
        return [Landing(data, peer, tag)]

    def pending(self, requests: Requests, peers: Sequence[int]) -> Wait:
        missing = deque(requests)

        def ready() -> bool:
            while missing:
                landing = missing[0]
                message = self.taken(landing.peer, landing.tag)
                if message is None:
                    return False
                missing.popleft()
                if message.size != landing.data.size:
                    raise MismatchError(
                        f"rank {self.rank} expected {landing.data.size} bytes of rank "
                        f"{landing.peer}, got {message.size}"
                    )
                landing.data[:] = message
            return True

        return Wait(ready, lambda: self.waiting([landing.peer for landing in missing]))

    async def receive(self, data: Bytes, peer: int, tag: int) -> int:
        came: list[Bytes] = []

        def ready() -> bool:
            message = self.taken(peer, tag)
            if message is not None:
                came.append(message)
            return message is not None

        await until(Wait(ready, lambda: self.waiting([peer])))
        (message,) = came
        if message.size <= data.size:
            data[: message.size] = message
        return message.size

    def taken(self, peer: int, tag: int) -> Bytes | None:
        """The oldest message of a peer, if one is there; RankFailure if any rank has failed."""
        thread = self.members[self.rank]
        with self.world.changed[thread]:
            box = self.world.mail[thread].get((self.context, peer, tag))
            if box:
                return box.popleft()
            if self.world.failed is not None:
                rank, error = self.world.failed
                raise RankFailure(f"rank {rank} failed: {error!r}")
            return None

    def waiting(self, peers: Sequence[int]) -> str:
        return f"rank {self.rank} has waited for rank {', '.join(map(str, peers))}"

    def pause(self, seconds: float) -> None:
        # A message ends it; one that came since the last look does not.
        condition = self.world.changed[self.members[self.rank]]
        with condition:
            condition.wait(max(seconds, SHORTEST_PAUSE_S))

    def progress(self) -> None:
        """Messages arrive when they are sent."""

    def group(self, ranks: tuple[int, ...]) -> LocalTransport:
        # Every member counts its groups of the same ranks, so all of them name this one alike.
        self.groups[ranks] = self.groups.get(ranks, 0) + 1
        return LocalTransport(
            self.world,
            tuple(self.members[rank] for rank in ranks),
            ranks.index(self.rank),
            (self.context, ranks, self.groups[ranks]),
        )

    def abandon(self, requests: Requests) -> None:
        """Messages are copies, so nothing is held."""

    def free(self) -> None:
        """Threads have nothing to give back."""

    def abort(self, code: int) -> None:
        error = RankFailure(f"rank {self.rank} aborted with exit code {code}")
        self.world.fail(self.members[self.rank], error)
        raise error


def run(size: int, function: Callable[[Communicator], T], timeout: float = 60.0) -> list[T]:
    """Call function(comm) on so many threads, and return what they return, by rank.

    The first exception of a rank is raised here, after the others have been freed of waiting for
    it. CollectiveTimeout where a rank does not end in `timeout` seconds; its thread stays behind.
    """
    from .communicator import Communicator  # here, since communicator and local know each other

    world = World(size, timeout)
    results: dict[int, T] = {}

    def work(rank: int) -> None:
        comm = Communicator(LocalTransport(world, tuple(range(size)), rank, ()))
        try:
            results[rank] = function(comm)
        except BaseException as error:
            world.fail(rank, error)

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout + 1
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if world.failed is not None:
        raise world.failed[1]
    if len(results) < size:
        missing = sorted(set(range(size)) - set(results))
        raise CollectiveTimeout(f"ranks {missing} did not end in {timeout:.3g} s")
    return [results[rank] for rank in range(size)]
