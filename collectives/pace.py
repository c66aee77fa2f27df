"""How long arrays go through the ring: in large parts through all of it, or in small ones.

Where the cores of the ranks have one last cache in common, small parts in a ring that stays in the
caches were half as fast again; where they have not, reading what another core has just written is
slow, and they took two to three times as long. Which it is can change, under a hypervisor or a
scheduler. So rank 0 times both now and then, and tells all with every call how the next one
goes.
"""

from __future__ import annotations

from typing import NamedTuple

TRIAL_EVERY = 64  # calls, of which one goes the way that was slower; more of the first
FRESH = 0.5  # the weight of the latest time


class Stride(NamedTuple):
    """Bytes of a part, and of the ring that is used; all of it if None."""

    part: int
    ring: int | None = None


STRIDES = (Stride(4 << 20), Stride(512 << 10, 2 << 20))


class Pace:
    """The way of the next long array, and on rank 0 what each took."""

    def __init__(self) -> None:
        self.way = 0
        self.calls = 0
        self.seconds: list[float | None] = [None] * len(STRIDES)  # per byte

    @property
    def stride(self) -> Stride:
        return STRIDES[self.way]

    def following(self) -> int:
        """The way of the call after this one, as rank 0 has it."""
        first, second = self.seconds
        if first is None or second is None:
            return 1 - self.way  # neither is known without the other
        self.calls += 1
        fastest = int(second < first)
        is_early = self.calls & (self.calls - 1) == 0  # first times are of memory never touched
        is_trial = self.calls % TRIAL_EVERY == 0 or is_early
        return 1 - fastest if is_trial else fastest

    def took(self, way: int, nbytes: int, seconds: float) -> None:
        """Take a time into account; what disturbs a call makes it longer, never shorter."""
        new, old = seconds / nbytes, self.seconds[way]
        self.seconds[way] = new if old is None else min(new, FRESH * new + (1 - FRESH) * old)
