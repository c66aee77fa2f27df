"""Bytes between ranks: collectives as schedules, and a communicator that runs them."""

from .communicator import Communicator
from .errors import (
    CollectiveError,
    CollectiveTimeout,
    MismatchError,
    RankFailure,
    ScheduleError,
)
from .waiting import Patience

__all__ = [
    "CollectiveError",
    "CollectiveTimeout",
    "Communicator",
    "MismatchError",
    "Patience",
    "RankFailure",
    "ScheduleError",
]
