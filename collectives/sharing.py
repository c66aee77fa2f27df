"""How the ranks of one node come to share memory: each maps the segments of all others.

Where they may, they read each other's own memory too.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .arena import Arena, arena
from .attach import attached
from .control import CONTROL, NAME
from .segment import opened
from .shared import SPAN, Member, Shared, sweep
from .transport import Transport
from .waiting import Call

Tell = Callable[[Sequence[int]], Call[list[list[int]]]]  # to all; what each has told


async def share(transport: Transport, tell: Tell) -> Shared | None:
    """Shared memory for the ranks of a transport; None where there is none. Collective."""
    size, rank = transport.size, transport.rank
    if size == 1 or not transport.has_processes or len(transport.node_ranks) < size:
        return None
    sweep()
    own = arena()
    piece = None if own is None else own.take(SPAN)
    mine = [os.getpid(), -1, 0, 0, 0, 0, 0]
    if own is not None and piece is not None:
        control = own.bytes[piece.start : piece.start + CONTROL].view(np.int64)
        control[:] = 0
        control[NAME] = name = secrets.randbits(62) + 1
        mine[1:] = [own.fd, own.token, own.bytes.size, piece.start, name, own.address]
    told = await tell(mine)
    members = [
        Member(pid, segment, start, name)
        for q, (pid, fd, token, span, start, name, _) in enumerate(told)
        if (segment := own.bytes if own and q == rank else neighbour(pid, fd, token, span))
        is not None
    ]
    processes = [
        process
        for pid, fd, token, *_, place in told
        if fd >= 0 and (process := attached(pid, place, token)) is not None
    ]
    everyone = await tell([len(members) == size and piece is not None, len(processes) == size])
    if own is None or piece is None or not all(is_there for is_there, _ in everyone):
        if own is not None and piece is not None:
            own.returned.append(piece)
        return None
    can_read = all(can for _, can in everyone)
    return Shared(transport, own, piece, members, processes if can_read else [])


def reads(own: Arena | None) -> bool:
    """Whether ranks may read each other's own memory, as far as one can tell by itself."""
    return own is not None and attached(own.pid, own.address, own.token) is not None


@functools.lru_cache(maxsize=1024)
def neighbour(pid: int, fd: int, token: int, span: int) -> NDArray[np.uint8] | None:
    """The segment of another process; None if it cannot be had."""
    memory = opened(pid, fd, token, span) if fd >= 0 else None
    return None if memory is None else np.frombuffer(memory, np.uint8)
