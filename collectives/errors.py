"""What can go wrong between ranks.

    CollectiveError             a call with other ranks did not complete
        MismatchError           ranks disagree on shape, dtype or length
        RankFailure             another rank died
        CollectiveTimeout       another rank stayed silent for too long
    ScheduleError               an algorithm is wrong (a ValueError, found without running it)

The caller's own mistakes, found on one rank before anything is sent, are ValueError and TypeError.
"""

from __future__ import annotations


class CollectiveError(RuntimeError):
    """A call that needs other ranks did not complete."""


class MismatchError(CollectiveError):
    """Ranks brought data that do not fit together."""


class RankFailure(CollectiveError):  # noqa: N818 - the name that the field uses
    """Another rank ended before it did its part."""


class CollectiveTimeout(CollectiveError):  # noqa: N818 - a sibling of TimeoutError in name
    """Another rank did not do its part in time."""


class ScheduleError(ValueError):
    """A schedule does not do what its collective promises."""
