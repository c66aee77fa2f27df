"""Bytes between ranks: collectives as schedules, and a communicator that runs them."""

from .communicator import Communicator
from .endpoint import Batch
from .errors import (
    CollectiveError,
    CollectiveTimeout,
    MismatchError,
    RankFailure,
    ScheduleError,
)
from .waiting import Patience
from .work import Work

__all__ = [
    "Batch",
    "CollectiveError",
    "CollectiveTimeout",
    "Communicator",
    "MismatchError",
    "Patience",
    "RankFailure",
    "ScheduleError",
    "Work",
]
