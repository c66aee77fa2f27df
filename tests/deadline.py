"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 20


def soon(holds: Callable[[], bool]) -> None:
    """Wait until it holds. Raises AssertionError where it does not in LIMIT_S seconds."""
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, f"it did not come true in {LIMIT_S} s"
        time.sleep(0.001)
