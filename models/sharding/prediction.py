"""What a sharding is predicted to take: the time of each stage, and of what goes between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .spread.stages import one_stage, site_seconds
from .workload import Work, local_work, work

if TYPE_CHECKING:
    from .plan import Sharding


class Prediction(NamedTuple):
    """Seconds of a run at the usual sizes, its steps of one token included."""

    seconds: float
    """from the inputs to the outputs"""
    stages: tuple[float, ...]
    """of each stage, without what goes between them"""


def predict(sharding: Sharding) -> Prediction:
    """Predict the time of a run: stages follow one another, and so do their messages."""
    analysis, mesh, machine = sharding.analysis, sharding.mesh, sharding.terms.machine
    of = (sharding.stages or one_stage(analysis)).of
    whole = sharding.row(0)
    seconds = site_seconds(analysis, sharding.choice.layout, whole, machine, rows_share(sharding))
    stages = [0.0] * mesh.pp
    for stage, spent in zip(of, seconds, strict=True):
        stages[stage or 0] += spent
    return Prediction(sum(stages) + _between(sharding), tuple(stages))


def _between(sharding: Sharding) -> float:
    """Return the seconds of what goes from stage to stage, and of giving the outputs to all."""
    mesh = sharding.mesh
    if mesh.size == mesh.tp:
        return 0.0
    firsts = sharding.heaviest_parts
    sent = [each for part in firsts for each in part.moved if each.op_type == "Send"]
    gathered = [each for part in firsts for each in part.given if each.op_type == "AllGather"]
    # All ranks take part in these, so that those of one are all.
    told = [each for each in firsts[0].given if each.op_type == "Broadcast"]
    return sharding.terms.machine.moving([*sent, *gathered, *told], sharding.analysis.steps)


def rows_share(sharding: Sharding) -> float:
    """Return the part of the batch that the first replica has at the usual sizes."""
    batch, replicas = sharding.batch.batch, sharding.mesh.dp
    if batch is None:
        return 1.0
    name, dim = next(iter(batch.inputs.items()))
    rows = sharding.analysis.usual[name][dim]
    return math.ceil(rows / replicas) / rows if rows else 1.0


def rank_work(sharding: Sharding, rank: int) -> Work:
    """Return the work of a run on one of the ranks."""
    analysis, layout = sharding.analysis, sharding.choice.layout
    at, rows = sharding.mesh.place(rank), rows_share(sharding)
    stages = (sharding.stages or one_stage(analysis)).of
    total = Work()
    for site, stage in zip(analysis.outermost, stages, strict=True):
        for inner in site.inside if stage == at.pp else ():
            own = local_work(analysis, inner, work(analysis, inner), layout, at.tp)
            total = total.plus(own.of_rows(rows))
    return total if at.dp == 0 or sharding.batch.batch is not None else Work()
