"""Stages of a pipeline: which nodes run where.

The nodes that depend on what is fed are cut, in their order, so that no stage takes longer than it
need (line.py). Memory is a limit. What is made of weights and sizes alone belongs to no stage:
each makes what it needs of it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, NoReturn

import numpy as np

from ...errors import MemoryLimitError, MeshError
from ...nodes import draws, references
from ..analysis import Analysis, usual_bytes
from ..layout import Layout
from ..machine import Machine, Transfer
from ..part import Part
from ..relayout import MOVABLE
from ..search import Terms, limits
from ..site import Site, Tensor
from ..workload import Work, local_work, row_share, share, work
from .line import Line, cut, least_weight


@dataclass(frozen=True)
class Stages:
    """The stage of every site; None for what each stage makes that needs it."""

    of: tuple[int | None, ...]
    count: int = 1


def one_stage(analysis: Analysis) -> Stages:
    """Return a pipeline of a single stage."""
    return Stages((0,) * len(analysis.outermost))


def balanced(
    analysis: Analysis,
    layout: Layout,
    part: Part,
    count: int,
    terms: Terms,
) -> Stages:
    """Cut a graph into stages, given the first rank's part of all of it.

    Raises MeshError where stages would have no nodes or hold more than they may.
    """
    if count == 1:
        return one_stage(analysis)
    placed = _placed(analysis)
    line = _line(analysis, layout, part, placed, terms.machine)
    most = limits(terms.memory, count)
    ends = cut(line, most) if line.count >= count else None
    if ends is None:
        _refuse(line, most)
    number = {site: bisect_right(ends, place) for place, site in enumerate(placed)}
    return Stages(tuple(number.get(site) for site in range(len(analysis.outermost))), count)


def _refuse(line: Line, most: Sequence[float]) -> NoReturn:
    """Say why a line cannot be cut."""
    count, free = len(most), sum(cost < math.inf for cost in line.costs[1:])
    if free < count:
        why = f"the graph has {line.count} nodes that depend on what is fed"
        if free < line.count:
            why += f", and at {line.count - free} of them what is alive cannot be sent"
        advice = f"pp={free} would do" if free > 1 else "leave pp out"
        most_stages = f"{free} stage" + ("s" if free != 1 else "")
        raise MeshError(f"expected at most {most_stages}, got {count}: {why}; {advice}")
    given = " and ".join(f"{limit:,.0f}" for limit in dict.fromkeys(most))
    raise MemoryLimitError(
        f"expected weights of at most {given} bytes on each rank, but of {count} stages the "
        f"heaviest holds {least_weight(line, count):,} at the least; give it more memory or more "
        "ranks"
    )


def _placed(analysis: Analysis) -> list[int]:
    """Return the numbers of the sites that depend on what is fed, in an order to cut.

    It is that of the graph, but for arithmetic on sizes, which comes where it is first needed:
    exporters write that of all layers first. Sizes of inputs are found on every stage; a state is
    on one alone, and its size too.
    """
    inputs = {value.name for value in analysis.graph.inputs} - set(analysis.states.values())
    free, placed, waiting = set(analysis.graph.weights), list[int](), dict[str, int]()
    for number, site in enumerate(analysis.outermost):
        reads = set(references(site.node))
        has_sizes = all(out is None or out.values is not None for out in site.outputs)
        is_free = reads <= free or (has_sizes and reads <= free | inputs)
        if is_free and not draws(site.node):
            free.update(site.node.output)
        elif has_sizes:
            waiting |= dict.fromkeys(filter(None, site.node.output), number)
        else:
            placed += [*_called(analysis, site, waiting), number]
    return [*placed, *sorted(set(waiting.values()))]


def _called(analysis: Analysis, site: Site, waiting: dict[str, int]) -> list[int]:
    """Take from those that wait the sites that one depends on, and return them in order."""
    todo, found = list(references(site.node)), set[int]()
    while todo:
        number = waiting.pop(todo.pop(), None)
        if number is not None and number not in found:
            found.add(number)
            todo += references(analysis.outermost[number].node)
    for number in found:
        for name in analysis.outermost[number].node.output:
            waiting.pop(name, None)
    return sorted(found)


def _line(
    analysis: Analysis, layout: Layout, part: Part, placed: Sequence[int], machine: Machine
) -> Line:
    place = {site: k for k, site in enumerate(placed)}
    seconds = site_seconds(analysis, layout, part, machine)
    weights = {name: held.nbytes for name, held in part.held.items()}
    weights |= {name: weight.nbytes for name, weight in part.constants.items()}
    needs = {name: frozenset([name]) for name in weights}
    parts = [frozenset[str]()] * len(placed)
    made, read = dict[str, int](), dict[str, tuple[int, int]]()
    for node, origin in zip(part.nodes, part.origins, strict=True):
        reads = list(references(node))
        used = frozenset[str]().union(*(needs.get(name, ()) for name in reads))
        if origin not in place:
            needs |= dict.fromkeys(node.output, used)
            continue
        here = place[origin]
        parts[here] |= used
        made |= dict.fromkeys(node.output, here)
        for name in reads:
            first, last = read.get(name, (here, here))
            read[name] = min(first, here), max(last, here)
    return Line(
        tuple(seconds[site] for site in placed),
        tuple(parts),
        weights,
        _costs(_spans(analysis, layout, part, machine, made, read), len(placed)),
    )


class Span(NamedTuple):
    """Places between which a cut costs something."""

    first: int
    last: int
    seconds: float
    """infinite where there can be no cut"""


def _costs(spans: Iterable[Span], count: int) -> tuple[float, ...]:
    """Return what it costs to cut before each place."""
    more, barred = np.zeros(count + 2), np.zeros(count + 2, int)
    for first, last, seconds in spans:
        if first < last:
            total, step = (more, seconds) if seconds < math.inf else (barred, 1)
            total[first + 1] += step
            total[last + 1] -= step
    costs = np.where(np.cumsum(barred) > 0, math.inf, np.cumsum(more))
    return (0.0, *costs[1:count].tolist(), 0.0)


def _spans(
    analysis: Analysis, layout: Layout, part: Part, machine: Machine, made: Mapping[str, int],
    read: Mapping[str, tuple[int, int]],
) -> Iterator[Span]:  # fmt: skip
    """Yield from where to where tensors are needed, and states are made and read.

    A tensor is sent over a cut. A state on both sides of one goes to all ranks in every step.
    """
    for name, first in made.items():
        last = read[name][1] if name in read else first
        tensor = analysis.tensors.get(part.forms.get(name, ""))
        seconds = math.inf
        if tensor is not None and tensor.data_type in MOVABLE:
            message = Transfer("Send", form_bytes(analysis, layout, name, tensor), 2)
            seconds = machine.moving([message], analysis.steps)
        yield Span(first, last, seconds)
    forms = dict[str, list[str]]()
    for form, name in part.forms.items():
        forms.setdefault(name, []).append(form)
    for output, fed in analysis.states.items():
        places = [made[form] for form in forms.get(output, ()) if form in made]
        places += [p for form in {fed, *forms.get(fed, ())} for p in read.get(form, ())]
        whole = Transfer("Broadcast", usual_bytes(analysis, analysis.tensors[output]), 2)
        seconds = (1 + analysis.steps) * machine.moving([whole])
        yield Span(min(places, default=0), max(places, default=0), seconds)


def form_bytes(analysis: Analysis, layout: Layout, name: str, tensor: Tensor) -> int:
    """Return the bytes of what a rank has of a tensor under a name, at the usual sizes."""
    part = share(tensor, layout, 0) * row_share(analysis, tensor, layout, 0)
    part = 1.0 if name == tensor.name else part
    return round(usual_bytes(analysis, tensor) * part)


def site_seconds(
    analysis: Analysis, layout: Layout, part: Part, machine: Machine, rows: float = 1.0
) -> list[float]:
    """Return the predicted seconds of each site on the first rank, collectives included.

    `rows` is its part of the batch.
    """
    found = []
    for site in analysis.outermost:
        shares = [
            local_work(analysis, inner, work(analysis, inner), layout, 0) for inner in site.inside
        ]
        own = reduce(Work.plus, shares, Work()).of_rows(rows)
        found.append(machine.computing(own, analysis.steps))
    for transfer, number in zip(part.moved, part.moved_for, strict=True):
        found[number] += machine.moving([transfer], analysis.steps)
    return found


def stages_of_nodes(part: Part, stages: Stages) -> list[int | None]:
    """Return the stage of each node: that of its site, or an earlier one that reads its output.

    What cuts or gathers a tensor is written for the first node of the graph that asks for it,
    which need not be the first to run. What each stage makes for itself, it makes of its own.
    """
    found = [stages.of[origin] for origin in part.origins]
    first, free = dict[str, int](), set[str]()
    for k in reversed(range(len(part.nodes))):
        stage, node = found[k], part.nodes[k]
        if stage is None or not free.isdisjoint(node.output):
            found[k] = None
            free.update(references(node))
            continue
        found[k] = min([stage, *(first[name] for name in node.output if name in first)])
        first |= {n: min(found[k] or 0, first.get(n, stage)) for n in references(node)}
    return found
