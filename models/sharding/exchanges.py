"""The collectives of nodes that communicate by themselves, in every step of a sequence."""

from __future__ import annotations

import math

from .analysis import Analysis
from .machine import Transfer
from .site import Site
from .workload import steps_and_batch

ITEM_BYTES = 4
"""States are float32 while a layer runs."""


def exchanges(analysis: Analysis, site: Site, size: int) -> list[Transfer]:
    """Return what a node over `size` ranks moves in a run, that is sharded along what it gathers.

    A step gathers the state of all sequences and directions; of a GRU that resets before the
    product, twice. The state of an LSTM's cell is gathered at the end, if it is asked for.
    """
    steps, batch = steps_and_batch(analysis, site)
    directions, _, hidden = (size.first for size in site.tensor(2).shape)
    resets_before = site.node.op_type == "GRU" and not site.attribute("linear_before_reset", 0)
    count = steps * (2 if resets_before else 1)
    nbytes = ITEM_BYTES * math.prod((directions, batch, hidden))
    moved = [Transfer("AllGather", nbytes, size, is_token=True)] * count
    if site.node.op_type == "LSTM" and len(site.outputs) > 2 and site.outputs[2] is not None:
        moved.append(Transfer("AllGather", nbytes, size, is_state=True))
    return moved * max(1, round(site.times))
