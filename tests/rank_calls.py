"""Collective calls of the pool's ranks: what each is given, and what it gives.

A call is begun, and finished with an Answer: its result, and which of its promises were broken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ml_dtypes  # noqa: F401 - its dtypes come in pickles
import numpy as np
from layouts import ORDINARY, SCALAR, Like, Place, given

from rankwise.collectives import Communicator, Work

Array = np.ndarray[Any, np.dtype[Any]]

LATE_S = 0.001
CALLBACK_S = 5.0


class Answer(NamedTuple):
    """What a call gave on one rank: a value, or the name and text of an exception.

    `flaws`: promises that were broken beside it.
    """

    value: Any = None  # of a collective an array or None, of messages a list of arrays
    error: str = ""
    message: str = ""
    flaws: tuple[str, ...] = ()


class Begun(Protocol):
    """A call under way."""

    def finish(self) -> Answer:
        """Wait for it."""

    def changes(self) -> bool:
        """Whether its result is no longer what it was when the call was finished."""


@dataclass(frozen=True)
class Call:
    """One rank's part in a collective.

    `place` is that of x, `into` that of out, if there is one; `out` says what the result is like.
    `manner`: a "late" rank comes after the others, a "hasty" one writes on its arrays as soon as
    they are its own. `waits` says how it waits for what it has begun: a name of WAITS.
    """

    collective: str
    x: Array | None
    keywords: Mapping[str, Any]
    place: Place = ORDINARY
    into: Place | None = None
    out: Like = SCALAR
    gives: bool = True  # whether this rank gets a result
    manner: str = ""
    waits: str = "wait"

    def begin(self, comm: Communicator, blocks: bool) -> Begun:
        return BegunCall(self, comm, blocks)


class BegunCall:
    """A collective and the arrays that it was given."""

    def __init__(self, call: Call, comm: Communicator, blocks: bool) -> None:
        self.call, self.blocks = call, blocks
        self.x, self.out = given(comm, call.x, call.place, call.into, call.out)
        self.x_before = None if self.x is None else np.array(self.x)
        self.result: Any = None
        self.value: Array | None = None
        self.error: Exception | None = None
        if call.manner == "late":
            time.sleep(LATE_S)
        keywords = dict(call.keywords) | ({} if self.out is None else {"out": self.out})
        method = getattr(comm, call.collective if blocks else f"i{call.collective}")
        try:
            self.result = method(*([] if call.collective == "barrier" else [self.x]), **keywords)
        except Exception as error:
            self.error = error

    def finish(self) -> Answer:
        if self.error is None and not self.blocks:
            try:
                self.result = WAITS[self.call.waits](self.result)
            except Exception as error:
                self.error = error
        if self.error is not None:
            return Answer(error=type(self.error).__name__, message=str(self.error))
        is_hasty = self.call.manner == "hasty"
        if is_hasty and not shares(self.x, self.result):
            overwrite(self.x)
        # Pickled as it is, an array with gaps loses its byte order.
        self.value = None if self.result is None else np.array(self.result, order="C")
        found = tuple(self.flaws())
        if is_hasty:
            overwrite(self.result)
        return Answer(self.value, flaws=found)

    def changes(self) -> bool:
        if self.value is None or self.call.manner == "hasty":
            return False
        return not same(self.result, self.value)

    def flaws(self) -> Iterator[str]:
        """What is wrong with a result beside its value."""
        call, x, out, result = self.call, self.x, self.out, self.result
        is_alias = shares(x, out)
        stays = call.manner != "hasty" and not (is_alias and call.gives)
        if self.x_before is not None and stays and not same(x, self.x_before):
            yield "x was changed"
        if not call.gives:
            if result is not None:
                yield f"a result where none was expected: {result!r}"
            if out is not None and not is_alias and any(out.tobytes()):
                yield "out was written where it is not used"
        elif out is not None and result is not out:
            yield "the result is not out"
        elif out is None and result is not None:
            yield from flaws_of_new(result, x, bool(call.keywords.get("view")))


def flaws_of_new(result: Array, x: Any, is_view: bool) -> Iterator[str]:
    """What is wrong with a result for which no out was given."""
    if not result.flags.c_contiguous:
        yield "the result is not C-contiguous"
    if result.flags.writeable is is_view:
        yield f"the result is {'writable' if is_view else 'read-only'}"
    if shares(x, result):
        yield "the result lies in x"


def overwrite(array: Any) -> None:
    """Write zeros where they may be written."""
    if isinstance(array, np.ndarray) and array.flags.writeable:
        array[...] = np.zeros((), array.dtype)


def shares(x: Any, y: Any) -> bool:
    """Whether two arrays may overlap."""
    both = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    return both and np.may_share_memory(x, y)


def same(x: Any, before: Array) -> bool:
    """Whether the bytes are still the same."""
    return bits(np.asarray(x)) == bits(before)


def bits(x: Array) -> bytes:
    """The bytes that mean something: of a long double of x86, ten."""
    if x.dtype.char not in "gG":
        return x.tobytes()
    parts = np.ascontiguousarray(x).reshape(-1).view(np.longdouble)
    meant = 10 if np.finfo(np.longdouble).nmant == 63 else parts.itemsize
    return parts.view(np.uint8).reshape(-1, parts.itemsize)[:, :meant].tobytes()


def tested(work: Work[Any]) -> Any:
    """Ask again and again."""
    while not work.test():
        time.sleep(0)
    return work.wait()


def heard(work: Work[Any]) -> Any:
    """Have a callback told, which may come right after wait has returned."""
    seen: list[Work[Any]] = []
    called = threading.Event()
    work.then(seen.append)
    work.then(lambda _: called.set())
    try:
        return work.wait()
    finally:
        assert called.wait(CALLBACK_S), "expected the callback to be called"
        assert seen == [work], "expected the callback to be called once, with the work"


WAITS: dict[str, Callable[[Work[Any]], Any]] = {
    "wait": Work.wait,
    "test": tested,
    "then": heard,
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
