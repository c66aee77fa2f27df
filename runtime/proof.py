"""The proof at load: rank 0 checks the plans of all ranks before any of them goes on."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np

from ..collectives import Communicator
from ..models.check import check, slim
from ..models.errors import ModelError
from ..models.graph import is_fed_whole
from ..models.plan import Compute, Plan
from .agreement import collected, together
from .loading import Loaded

STEPS = 400_000
"""Nodes that are looked at while a model is loaded, all ranks together: about 10 s. What comes
after them in a longer program is compared by the ranks as they run."""

DIGEST = hashlib.sha256().digest_size


def prove(comm: Communicator, plan: Plan, loaded: Loaded) -> bool:
    """Say whether the plans of the ranks fit whatever they are fed; collective.

    False leaves it to a comparison of every call as they run: where shapes are known only then, or
    loops go on for long. Raises ModelError, on every rank, if they do not fit.
    """
    # What this very call has sharded needs no proof: every rank has cut one graph by one choice,
    # and the collectives of all parts come in the order of that graph.
    is_silent = all(isinstance(step, Compute) for step in plan.instructions)
    if comm.allgather(
        np.array([loaded.is_sharded_here or is_silent]), counts=(1,) * comm.size
    ).all():
        return True
    packed = together(comm, lambda: pickle.dumps((slim(plan, loaded.folder), loaded.mesh)))
    everything = _gathered(comm, packed)
    proven = together(comm, lambda: everything is None or _judge(everything))
    return bool(comm.broadcast(np.array([proven])).all())


def _gathered(comm: Communicator, packed: bytes) -> list[bytes] | None:
    """Return what each rank has, on rank 0; of equal ones only the first is sent."""
    digest = np.frombuffer(hashlib.sha256(packed).digest(), np.uint8)
    digests = comm.allgather(digest, counts=(DIGEST,) * comm.size).reshape(comm.size, DIGEST)
    first = [int((digests == mine).all(1).argmax()) for mine in digests]
    sent = packed if first[comm.rank] == comm.rank else b""
    parts = collected(comm, sent)
    return None if parts is None else [parts[rank] for rank in first]


def _judge(everything: list[bytes]) -> bool:
    known = {packed: pickle.loads(packed) for packed in dict.fromkeys(everything)}
    plans, meshes = zip(*(known[packed] for packed in everything), strict=True)
    verdict = check(plans, meshes, steps=STEPS)
    wrong = verdict.certain
    if wrong:
        more = f"; and {len(wrong) - 1} more, which rankwise check shows" if wrong[1:] else ""
        raise ModelError(f"the programs of the ranks do not fit: {wrong[0]}{more}")
    # The parts of a model that was sharded have shapes that fit, if they fit at all.
    return verdict.is_proof or all(is_fed_whole(plan.model) for plan in plans)
