"""The batch: which dims of the inputs the replicas split, and of which outputs they give rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from onnx import ValueInfoProto

from ...errors import MeshError
from ...shapes import dims
from ..analysis import Analysis, analyse
from ..axes import Axis, find
from .flow import Flow

OPEN = "rankwise.batch"
"""The name of a batch that was of fixed size."""

OLDEST = 10
"""The first opset whose Slice takes bounds that are computed."""

TRIES = 4
"""Groups of dims that are looked at: shapes are inferred anew for each."""


class Batch(NamedTuple):
    """Dims that replicas split."""

    inputs: dict[str, int]
    outputs: dict[str, int]


class Found(NamedTuple):
    """The batch, or why there is none."""

    batch: Batch | None
    why: str = ""


def find_batch(analysis: Analysis) -> Found:
    """Return the batch of a graph: of all dims that are one, the first in the order of dims."""
    if analysis.graph.opsets.get("", 1) < OLDEST:
        return Found(None, f"its opset is older than {OLDEST}")
    reasons = list[str]()
    for places in islice(_groups(analysis), TRIES):
        outputs = Flow(analysis, places).outputs()
        if not isinstance(outputs, str):
            return Found(Batch(places, outputs))
        reasons.append(outputs)
    return Found(None, reasons[0] if reasons else "no input has a dim of more than one row")


def asked_batch(analysis: Analysis, asked: str) -> Batch:
    """Return the batch that a person names: a dim of all inputs, or NAME=DIM,NAME=DIM.

    It is not proved that it passes. Raises MeshError for what no input has, and where outputs do
    not tell where they have it.
    """
    inputs = dict(_asked(analysis, asked))
    flow = Flow(analysis, inputs)
    outputs = dict[str, int]()
    for value in analysis.graph.outputs:
        varying = flow.varying(value.name)
        if not flow.is_known(value.name) or len(varying) > 1:
            where = f"in dims {varying}" if varying else "in a dim that is not known"
            raise MeshError(f"--batch-dim {asked}: output {value.name!r} has the batch {where}")
        if varying and flow.is_inner(value.name):
            raise MeshError(
                f"--batch-dim {asked}: output {value.name!r} has the rows of the batch among "
                f"others in dim {varying[0]}; name a dim that is the slowest there"
            )
        if varying:
            outputs[value.name] = varying[0]
    return Batch(inputs, outputs)


def _asked(analysis: Analysis, asked: str) -> Iterator[tuple[str, int]]:
    ranks = {value.name: len(dims(value)) for value in analysis.graph.inputs}
    pairs = [(name, dim) for name, _, dim in (pair.rpartition("=") for pair in asked.split(","))]
    if "=" not in asked:
        pairs = [(name, asked) for name, rank in ranks.items() if rank]
    if not pairs:
        raise MeshError(f"--batch-dim {asked}: no input has any dims")
    for name, dim in pairs:
        if name not in ranks or not dim.removeprefix("-").isdecimal():
            raise MeshError(
                "expected --batch-dim to be a dim of all inputs, or input=dim with inputs among "
                f"{', '.join(ranks)}, got {asked!r}"
            )
        if not -ranks[name] <= int(dim) < ranks[name]:
            raise MeshError(f"--batch-dim {asked}: {name!r} has dims 0 to {ranks[name] - 1}")
        yield name, int(dim) % ranks[name]


def _groups(analysis: Analysis) -> Iterator[dict[str, int]]:
    """Yield dims of inputs that are one: by name, or by their axis."""
    seen = set[tuple[str, int]]()
    inputs = analysis.graph.inputs
    places = [(v.name, dim) for v in inputs for dim in range(len(dims(v)))]
    for place in sorted(places, key=lambda place: place[1]):
        if place in seen or _axis(analysis, place) is None:
            continue
        group, border = set[tuple[str, int]](), {place}
        while border:
            group |= border
            keys = {key for each in group for key in _keys(analysis, each)}
            border = {p for p in places if keys & set(_keys(analysis, p))} - group
        seen |= group
        if len({name for name, _ in group}) == len(group):
            yield dict(sorted(group))


def _keys(analysis: Analysis, place: tuple[str, int]) -> Iterator[object]:
    """Yield what a dim is known by: its name, and its axis."""
    name, dim = place
    value = next(v for v in analysis.graph.inputs if v.name == name)
    size = dims(value)[dim]
    axis = _axis(analysis, place)
    if axis is not None:
        yield axis
        if isinstance(size, str):
            yield size


def _axis(analysis: Analysis, place: tuple[str, int]) -> Axis | None:
    tensor = analysis.tensors[place[0]]
    axis = tensor.axes[place[1]] if place[1] < tensor.rank else None
    return None if axis is None else find(axis)


def with_open_batch(analysis: Analysis, batch: Batch) -> Analysis:
    """Return the analysis of a graph whose batch is open, if it is of fixed size.

    The inputs that it is written with stay what they are.
    """
    graph = analysis.graph
    split = [value for value in graph.inputs if value.name in batch.inputs]
    if all(isinstance(dims(value)[batch.inputs[value.name]], str) for value in split):
        return analysis
    inputs = [ValueInfoProto.FromString(value.SerializeToString()) for value in graph.inputs]
    for value in inputs:
        if value.name in batch.inputs:
            value.type.tensor_type.shape.dim[batch.inputs[value.name]].dim_param = OPEN
    opened = analyse(replace(graph, inputs=tuple(inputs)))
    measured = opened.measured._replace(usual=analysis.measured.usual)
    return replace(opened, graph=replace(opened.graph, inputs=graph.inputs), measured=measured)
