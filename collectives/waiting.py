"""How a rank waits for others: it looks, yields the core, then sleeps; it warns, and gives up.

Everything that may have to wait is a coroutine that yields what it waits for. A blocking call runs
one to its end (`finish`); work.py runs several side by side.
"""

from __future__ import annotations

import logging
import time
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from .errors import CollectiveTimeout

T = TypeVar("T")

TURNS = 10
YIELD_S = 0.0005  # the core is only yielded for so long
LONGEST_SLEEP_S = 0.001

log = logging.getLogger("rankwise.collectives")


@dataclass(frozen=True)
class Patience:
    """Seconds of silence until a warning, and until CollectiveTimeout."""

    warning: float = 30.0
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not (self.warning > 0 and self.timeout > 0):
            raise ValueError(f"expected times above 0 s, got {self!r}")


def nothing() -> None:
    """There is nothing to look after."""


class Wait(NamedTuple):
    """What is waited for; it was not ready yet.

    `ready()` may raise, and is not called again once it was true. `describe()` says who waits for
    whom. `meanwhile()` is called before every sleep, for what may go wrong in between.
    """

    ready: Callable[[], bool]
    describe: Callable[[], str]
    meanwhile: Callable[[], None] = nothing


Call = Coroutine[Wait, None, T]


@types.coroutine
def until(wait: Wait) -> Generator[Wait, None, None]:
    """Go on as soon as it is ready."""
    if not wait.ready():
        yield wait


class Place(Protocol):
    """Where a rank waits: how often it looks before it makes room, and how it makes room."""

    patience: Patience
    looks: int

    def pause(self, seconds: float) -> None:
        """Leave the core to others for so long at most; 0 is once."""


class Silence:
    """The time since a wait began."""

    def __init__(self, wait: Wait, patience: Patience) -> None:
        self.wait = wait
        self.patience = patience
        self.started = time.monotonic()
        self.warn_at = patience.warning

    def lasts(self) -> float:
        """Seconds until now; warns, and raises CollectiveTimeout, when they are too many."""
        waited = time.monotonic() - self.started
        if waited >= self.patience.timeout:
            raise CollectiveTimeout(
                f"{self.wait.describe()} for {waited:.3g} s; no answer in time"
            )
        if waited >= self.warn_at:
            log.warning("%s for %.3g s", self.wait.describe(), waited)
            self.warn_at *= 2
        return waited


def block(wait: Wait, place: Place) -> None:
    """Return as soon as it is ready.

    More ranks than cores are normal, so a rank that waits gets out of the way: it yields the core,
    and later sleeps an eighth of the time waited, which bounds what it adds.
    """
    for _ in range(place.looks):
        if wait.ready():
            return
    for _ in range(TURNS):  # that of other ranks, which may be all it takes
        place.pause(0)
        if wait.ready():
            return
    silence = Silence(wait, place.patience)
    while not wait.ready():
        waited = silence.lasts()
        if waited < YIELD_S:
            place.pause(0)
        else:
            wait.meanwhile()
            place.pause(min(waited / 8, LONGEST_SLEEP_S))


def finish(call: Call[T], place: Place) -> T:
    """Run a call to its end."""
    try:
        wait = call.send(None)
        while True:
            try:
                block(wait, place)
            except BaseException as error:
                wait = call.throw(error)
            else:
                wait = call.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
