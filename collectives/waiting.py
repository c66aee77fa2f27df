"""How a rank waits for others: it looks, yields the core, then sleeps; it warns, and gives up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import CollectiveTimeout

LOOKS = 40  # looks in a row before the core is offered to others for the first time
YIELD_S = 0.0005  # then it is only yielded for so long
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


def until(
    ready: Callable[[], bool],
    patience: Patience,
    describe: Callable[[], str],
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Return as soon as `ready()` is true; `describe()` says who waits for whom.

    `meanwhile()` is called before every sleep, for what may go wrong while this rank waits.
    """
    for _ in range(LOOKS):
        if ready():
            return
    aside(ready, patience, describe, meanwhile)


def aside(
    ready: Callable[[], bool],
    patience: Patience,
    describe: Callable[[], str],
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """`until` for one who has looked in vain.

    More ranks than cores are normal, so a rank that waits gets out of the way: it yields the core,
    and later sleeps an eighth of the time waited, which bounds what it adds.
    """
    started = time.monotonic()
    warn_at = patience.warning
    while not ready():
        waited = time.monotonic() - started
        if waited < YIELD_S:
            os.sched_yield()
        else:
            if meanwhile is not None:
                meanwhile()
            time.sleep(min(waited / 8, LONGEST_SLEEP_S))
        if waited >= patience.timeout:
            raise CollectiveTimeout(f"{describe()} for {waited:.3g} s; no answer in time")
        if waited >= warn_at:
            log.warning("%s for %.3g s", describe(), waited)
            warn_at *= 2
