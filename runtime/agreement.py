"""Ranks do a thing each, and go on only if all of them could; and what each found is gathered."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..collectives import Communicator
from ..models.errors import NothingToShard
from .launch import LaunchError

T = TypeVar("T")

EXPECTED = (ValueError, TypeError, OSError, NothingToShard, LaunchError)
"""What bad input raises. Anything else is a bug, and not for the ranks to agree on."""


class Agreement(Exception):  # noqa: N818 - it is the cause of errors, and raised by nobody
    """Say, as the cause of an error, that every rank raises it, and whose it was."""


def together(comm: Communicator, function: Callable[[], T]) -> T:
    """Call `function` on every rank; collective.

    If it raises one of EXPECTED on some rank, the error of the lowest such rank is raised on all,
    with an Agreement as its cause.
    """
    try:
        result, error = function(), None
    except EXPECTED as caught:
        error = caught
    blame = comm.allgather(np.array([error is not None]), counts=(1,) * comm.size)
    if not blame.any():
        return result
    speaker = int(blame.argmax())
    told = np.frombuffer(_packed(error), np.uint8) if comm.rank == speaker else None
    first = pickle.loads(comm.broadcast(told, speaker).tobytes())
    raise first from Agreement(f"rank {speaker} cannot go on")


def _packed(error: BaseException | None) -> bytes:
    """Return an error as bytes: itself, or what it says where it cannot be sent."""
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:  # an error's own __reduce__ and __init__ can raise anything
        packed = pickle.dumps(ValueError(str(error)))
    return packed


def collected(comm: Communicator, packed: bytes) -> list[bytes] | None:
    """Return what each rank gives, by rank, on rank 0; None on the others."""
    counts = comm.allgather(np.array([len(packed)]), counts=(1,) * comm.size)
    whole = comm.gather(np.frombuffer(packed, np.uint8), counts=counts.tolist())
    if whole is None:
        return None
    return [part.tobytes() for part in np.split(whole, np.cumsum(counts)[:-1])]


def gathered(comm: Communicator, value: Any) -> list[Any]:
    """Return what each rank gives, by rank, on every rank; a value is what JSON can hold."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    counts = comm.allgather(np.array([len(text)]), counts=(1,) * comm.size).tolist()
    everything = comm.allgather(text, counts=counts)
    parts = np.split(everything, np.cumsum(counts)[:-1])
    return [json.loads(part.tobytes()) for part in parts]
