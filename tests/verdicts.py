"""What becomes of a program: found wrong before or as it runs, or it gives what it should."""

from __future__ import annotations

import re
from typing import NamedTuple

import onnxruntime
from onnx import ModelProto
from seed_programs import Array, Seed, fed

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.check import check
from rankwise.models.errors import ModelError
from rankwise.models.graph import mesh_of
from rankwise.models.plan import build_plan

TIMEOUT_S = 3.0
RUN_TIME = r"rank \d.* on |has waited for rank"


class Outcome(NamedTuple):
    """What became of a mutant."""

    kind: str
    """check, load, run: who found it; same: it changes nothing; missed"""
    text: str


def judge(seed: Seed, models: list[ModelProto]) -> Outcome:
    """Check a program; if nothing is found, run it."""
    try:
        plans = [build_plan(model) for model in models]
        verdict = check(plans, [mesh_of(model) for model in models])
    except ModelError as error:
        return Outcome("check", str(error))
    if verdict.findings:
        return Outcome("check", str(verdict))
    return run(seed, models)


def run(seed: Seed, models: list[ModelProto]) -> Outcome:
    """Run a program on threads, and compare what comes out with numpy."""
    sources = [model.SerializeToString() for model in models]
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4

    def work(comm: Communicator) -> Array:
        with rankwise.InferenceSession(sources[comm.rank], quiet, comm=comm) as session:
            made: Array = session.run(None, {"x": fed(comm.rank)})[0]
            return made

    try:
        made = local.run(len(models), work, timeout=TIMEOUT_S)
    except ModelError as error:
        return Outcome("load", str(error))
    except Exception as error:  # whatever it is, it must say where
        return Outcome("run" if re.search(RUN_TIME, str(error)) else "missed", str(error))
    expected = seed.expected([fed(rank) for rank in range(len(models))])
    is_same = all(
        a.shape == b.shape and a.dtype == b.dtype and (a == b).all()
        for a, b in zip(made, expected, strict=True)
    )
    return Outcome("same" if is_same else "missed", "")
