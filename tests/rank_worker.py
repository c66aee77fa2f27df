"""The program of every rank of a pool (pool.py): it does the jobs that its socket brings.

    mpirun -n 4 python rank_worker.py SOCKET

A rank that waits for a job reads from its socket, so it costs nothing. What it answers goes back
call by call: when ranks hang, it is known how far each of them came.
"""

from __future__ import annotations

import faulthandler
import itertools
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client
from typing import NamedTuple

from rank_calls import Answer, Begun, Call
from rank_messages import Exchange

from rankwise.collectives import CollectiveError, Communicator

END_S = 10.0


class State(NamedTuple):
    """What was found after all calls.

    `works`: the communicator still does. `changed`: the calls whose results others came to change.
    """

    works: bool
    changed: tuple[int, ...]


class Worlds(NamedTuple):
    """All ranks, with and without a comparison of every call."""

    plain: Communicator
    checked: Communicator


@dataclass(frozen=True)
class Job:
    """Calls on the world, or on the group of these ranks, which is made and freed for them.

    `turns` are numbers of calls: at the first one the call is begun, at the second one waited for;
    a call whose number comes once blocks. `splits`: all ranks of the world split it by color; else
    only the members make the group.
    """

    calls: tuple[Call | Exchange, ...] = ()
    turns: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    color: int | None = None
    splits: bool = False
    checked: bool = False

    def run(self, worlds: Worlds) -> Iterator[tuple[int, Answer] | State]:
        """An answer to each call, with its number, and then the state in which all is left."""
        world = worlds.checked if self.checked else worlds.plain
        comm = self.communicator(world)
        if comm is None:
            return
        begun: dict[int, Begun] = {}
        for number in self.turns:
            blocks = self.turns.count(number) == 1
            is_first = number not in begun
            if is_first:
                begun[number] = self.calls[number].begin(comm, blocks)
            if blocks or not is_first:
                yield number, begun[number].finish()
        works = is_working(comm)
        if works and comm is not world:
            comm.free()
        yield State(works, tuple(number for number, call in begun.items() if call.changes()))

    def communicator(self, world: Communicator) -> Communicator | None:
        if self.splits:
            key = self.members.index(world.rank) if self.members else 0
            return world.split(self.color, key)
        if not self.members:
            return world if self.calls else None
        return world.group(self.members)


def is_working(comm: Communicator) -> bool:
    """Whether a communicator is in order."""
    try:
        everyone = comm.allgather([comm.rank], counts=(1,) * comm.size).tolist()
    except CollectiveError:
        return False
    return bool(everyone == list(range(comm.size)))


def main() -> None:
    worlds = Worlds(Communicator.world(), Communicator.world(checked=True))
    with Client(sys.argv[1]) as connection:
        connection.send(worlds.plain.rank)
        while True:
            try:
                job, limit = connection.recv()
            except EOFError:
                break
            # Says where it hangs, and ends it even when nobody is left to do so.
            faulthandler.dump_traceback_later(limit, exit=True)
            for answer in itertools.chain(job.run(worlds), [None]):
                connection.send_bytes(pickle.dumps(answer, 5))
            faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(END_S, exit=True)
    for world in worlds:
        world.free()


if __name__ == "__main__":
    main()
