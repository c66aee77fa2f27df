"""The program of every rank of a pool (pool.py): it does the jobs that its socket brings.

    mpirun -n 4 python rank_worker.py SOCKET

A rank that waits for a job reads from its socket, so it costs nothing. What it answers goes back
call by call: when ranks hang, it is known how far each of them came.
"""

from __future__ import annotations

import faulthandler
import functools
import itertools
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Client
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - its dtypes come in pickles
import numpy as np

from rankwise.collectives import Communicator

Array = np.ndarray[Any, np.dtype[Any]]

END_S = 10.0


class Answer(NamedTuple):
    """What a call gave on one rank: a value, or the name and text of an exception.

    `flaws`: promises that were broken beside it.
    """

    value: Array | None = None
    error: str = ""
    message: str = ""
    flaws: tuple[str, ...] = ()


Finish = Callable[[], Answer]


@dataclass(frozen=True)
class Call:
    """One rank's part in a collective: `x` as it is to be laid out in memory, and where `out` is.

    `layout` is a name of LAYOUTS. `into` is "" for no out, "x", "overlap" for one that begins an
    element before x, or a name of LAYOUTS; `shape` and `dtype` are those of out.
    """

    collective: str
    x: Array | None
    keywords: Mapping[str, Any]
    layout: str = "c"
    into: str = ""
    shape: tuple[int, ...] = ()
    dtype: Any = None
    gives: bool = True  # whether this rank gets a result


@dataclass(frozen=True)
class Job:
    """Calls on the world, or on the group of these ranks, which is made and freed for them.

    `splits`: all ranks of the world split it by color; else only the members make the group.
    `deferred`: all calls are begun, by their i-forms, before one is waited for.
    """

    calls: tuple[Call, ...] = ()
    members: tuple[int, ...] = ()
    color: int | None = None
    splits: bool = False
    deferred: bool = False

    def run(self, world: Communicator) -> Iterator[Answer]:
        """One answer to each call, and one that says whether the communicator still works."""
        comm = self.communicator(world)
        if comm is None:
            return
        under_way: Iterable[Finish] = (begun(comm, call, self.deferred) for call in self.calls)
        if self.deferred:
            under_way = list(under_way)
        for finish in under_way:
            yield finish()
        everyone = comm.allgather([comm.rank], counts=(1,) * comm.size).tolist()
        yield Answer(np.array(everyone == list(range(comm.size))))
        if comm is not world:
            comm.free()

    def communicator(self, world: Communicator) -> Communicator | None:
        if self.splits:
            key = self.members.index(world.rank) if self.members else 0
            return world.split(self.color, key)
        if not self.members:
            return world if self.calls else None
        return world.group(self.members)


def begun(comm: Communicator, call: Call, deferred: bool) -> Finish:
    """Make a call; what is returned waits for it, and looks at the arrays of the caller too."""
    x, out = arrays(call)
    x_before = None if x is None else np.array(x)
    given = {} if out is None else {"out": out}
    arguments = [] if call.collective == "barrier" else [x]
    method = getattr(comm, f"i{call.collective}" if deferred else call.collective)
    try:
        result = method(*arguments, **call.keywords, **given)
    except Exception as error:
        return functools.partial(failed, error)

    def finish() -> Answer:
        try:
            value = result.wait() if deferred else result
        except Exception as error:
            return failed(error)
        found = tuple(flaws(call, x, x_before, out, value))
        # Pickled as it is, an array with gaps loses its byte order.
        return Answer(None if value is None else np.array(value, order="C"), flaws=found)

    return finish


def failed(error: Exception) -> Answer:
    return Answer(error=type(error).__name__, message=str(error))


def flaws(
    call: Call, x: Any, x_before: Array | None, out: Array | None, result: Array | None
) -> Iterator[str]:
    """What is wrong with a result beside its value."""
    is_shared = out is not None and isinstance(x, np.ndarray) and np.may_share_memory(x, out)
    if x_before is not None and not (is_shared and call.gives):
        same = np.asarray(x).tobytes() == x_before.tobytes()
        if not same and x_before.dtype.char not in "gG":  # which have bytes that mean nothing
            yield "x was changed"
    if not call.gives:
        if result is not None:
            yield f"a result where none was expected: {result!r}"
        if out is not None and not is_shared and any(out.tobytes()):
            yield "out was written where it is not used"
    elif out is not None and result is not out:
        yield "the result is not out"
    elif out is None and result is not None:
        if not result.flags.c_contiguous:
            yield "the result is not C-contiguous"
        if not result.flags.writeable:
            yield "the result is read-only"
        if isinstance(x, np.ndarray) and np.may_share_memory(x, result):
            yield "the result lies in x"


def arrays(call: Call) -> tuple[Any, Array | None]:
    """x and out as they are handed in; what out held before is zeros."""
    x = call.x
    if x is not None and x.dtype == call.dtype and call.into == "overlap":
        count = int(np.prod(call.shape, dtype=int))
        memory = np.zeros(max(count, x.size) + 1, x.dtype)
        shifted = memory[1 : 1 + x.size].reshape(x.shape)
        shifted[...] = x
        return shifted, memory[:count].reshape(call.shape)
    laid_out = None if x is None else LAYOUTS[call.layout](x)
    if call.into == "":
        return laid_out, None
    if call.into == "x" and x is not None and (x.shape, x.dtype) == (call.shape, call.dtype):
        return laid_out, laid_out
    out = LAYOUTS.get(call.into, np.copy)(np.zeros(call.shape, call.dtype))
    return laid_out, out


def spread(x: Array) -> Array:
    """Every second element along every dim of a larger array."""
    every_second: Any = (Ellipsis, *[slice(None, None, 2)] * x.ndim)
    memory: Array = np.zeros([2 * n for n in x.shape], x.dtype)[every_second]
    memory[...] = x
    return memory


def backward(x: Array) -> Array:
    """From the end of memory to its beginning."""
    return np.flip(np.flip(x).copy()) if x.ndim else x.copy()


def unaligned(x: Array) -> Array:
    """At an odd address."""
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    memory[...] = x
    return memory


def frozen(x: Array) -> Array:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS: dict[str, Callable[[Array], Any]] = {
    "c": np.copy,
    "fortran": lambda x: np.array(x, order="F"),
    "spread": spread,
    "reversed": backward,
    "unaligned": unaligned,
    "frozen": frozen,
    "list": lambda x: x.tolist(),
}


def affine(left: Array, right: Array) -> Array:
    """Compose maps t -> a t + b, all a in the first half of an array and all b in the second.

    The order matters, the grouping does not. The last of an odd number of elements is the left.
    """
    a, b = left.reshape(-1), right.reshape(-1)
    half = a.size // 2
    result = a.copy()
    result[:half] = a[:half] * b[:half]
    result[half : 2 * half] = a[:half] * b[half : 2 * half] + a[half : 2 * half]
    return result.reshape(left.shape)


def last(left: Array, right: Array) -> Array:
    """The operand of the highest rank."""
    return right


def main() -> None:
    world = Communicator.world()
    with Client(sys.argv[1]) as connection:
        connection.send(world.rank)
        while True:
            try:
                job, limit = connection.recv()
            except EOFError:
                break
            # Says where it hangs, and ends it even when nobody is left to do so.
            faulthandler.dump_traceback_later(limit, exit=True)
            for answer in itertools.chain(job.run(world), [None]):
                connection.send_bytes(pickle.dumps(answer, 5))
            faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(END_S, exit=True)
    world.free()


if __name__ == "__main__":
    main()
