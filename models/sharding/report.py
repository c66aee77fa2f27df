"""What a person reads of a model before it is sharded, and of a choice before it is written.

Both are values, for programs to read as JSON, that have a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from ..errors import HintError, MeshError
from ..graph import load
from ..mesh import Mesh
from ..table import aligned, short
from .analysis import BATCH, LENGTH, Analysis, analyse
from .machine import Machine
from .plan import Sharding, plan_analysed
from .prediction import predict, rank_work
from .prices import NOTHING, TAKEN, WANTED, Operator, Price, operators, prices
from .search import Terms
from .sequence import RowPrice, row_prices
from .workload import Work, work

SIZES = (2, 3, 4, 8)
"""Numbers of ranks that a description shows."""

RUN = f"batch {BATCH}, other open dims {LENGTH}"

MOST_ROWS = 20
"""Of operators or prices in a text: the JSON has them all."""

WIDEST = 44
"""Characters of a list of weights."""


@dataclass(frozen=True)
class MeshRow:
    """What sharding over a mesh comes to."""

    mesh: str
    weight_bytes: int
    """on the heaviest rank"""
    share: float
    """of all weight bytes"""
    bytes_sent: int
    """by a rank in a run"""
    seconds: float
    """predicted for a run"""


@dataclass(frozen=True)
class Description:
    """A model: what it is made of, and what of it can be sharded."""

    parameters: int
    weight_bytes: int
    multiply_adds: float
    """of a run at the usual sizes"""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: int
    """of one token, which times of a run include"""
    mesh: str
    """that of which operators and prices are told"""
    operators: tuple[Operator, ...]
    prices: tuple[Price, ...]
    rows: tuple[RowPrice, ...]
    """what lies between sums, on each rank's rows"""
    meshes: tuple[MeshRow, ...]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"parameters     {self.parameters:,} in {self.weight_bytes:,} bytes",
                f"multiply-adds  {self.multiply_adds:,.0f} a run ({RUN})",
                f"inputs         {_listed(self.inputs, 72)}",
                f"outputs        {_listed(self.outputs, 72)}",
                "",
                *_operator_table(self.operators, self.mesh),
                "",
                f"axes that could be cut over {self.mesh}, what each saves and costs "
                f"{_timed(self.steps)}:",
                *_price_table(self.prices),
                "",
                *_row_table(self.rows),
                _mesh_table(self.meshes),
            ]
        )


@dataclass(frozen=True)
class RankRow:
    """What a rank will hold and do in a run."""

    rank: int
    weight_bytes: int
    share: float
    multiply_adds: float
    collectives: dict[str, int]
    states: int
    """how many of them are of states, such as caches, and left out by run_local"""
    bytes_sent: int
    seconds: float
    """predicted"""


@dataclass(frozen=True)
class Preview:
    """A choice: each rank's bytes, work and communication, and every axis that is cut."""

    mesh: str
    steps: int
    """of one token, which times of a run include"""
    seconds_alone: float
    """predicted for a run on one rank"""
    seconds: float
    """predicted for a run: stages follow one another"""
    ranks: tuple[RankRow, ...]
    collectives: dict[str, int]
    """of a run; those of a group of ranks count once"""
    prices: tuple[Price, ...]
    """of what is taken"""
    rows: tuple[RowPrice, ...]
    """the same, of what lies between sums"""
    notes: tuple[str, ...]
    """what a person ought to know, such as that replicas are idle"""

    def __str__(self) -> str:
        rows: list[Sequence[object]] = [
            ("rank", "weight bytes", "of all", "multiply-adds", "calls", "bytes sent", "ms")
        ]
        for row in self.ranks:
            share, calls = f"{row.share:.1%}", sum(row.collectives.values())
            made = round(row.multiply_adds)
            rows.append(
                (row.rank, row.weight_bytes, share, made, calls, row.bytes_sent, _ms(row.seconds))
            )
        first = self.ranks[0]
        counts = ", ".join(f"{n} {op}" for op, n in self.collectives.items())
        if first.states:
            counts += f"; those of {first.states} states are left out by run_local"
        ratio = self.seconds_alone / self.seconds if self.seconds else 1
        return "\n".join(
            [
                aligned(rows),
                "",
                f"collectives    {counts or 'none'}",
                f"predicted      {_ms(self.seconds)} ms {_timed(self.steps)}, "
                f"{_ms(self.seconds_alone)} ms on one rank: {ratio:.2f} times as fast",
                *(f"note           {note}" for note in self.notes),
                *(["", "axes that are cut:", *_price_table(self.prices)] if self.prices else []),
                *(["", *_row_table(self.rows)[:-1]] if self.rows else []),
            ]
        )


def describe(
    source: str | Path | bytes,
    mesh: str | Mapping[str, int] | Mesh = "tp=2",
    terms: Terms | None = None,
) -> Description:
    """Describe a model: its weights, its work, and what of it can be sharded.

    Operators and candidates are those of one mesh, tp=2 by default. Raises ModelError, MeshError,
    HintError.
    """
    graph, mesh, terms = load(source), Mesh.parse(mesh), terms or Terms()
    analysis = analyse(graph)
    found = plan_analysed(analysis, mesh, terms, needs_work=False)
    return Description(
        parameters=sum(weight.count for weight in graph.weights.values()),
        weight_bytes=graph.weight_bytes,
        multiply_adds=whole_work(analysis).multiply_adds,
        inputs=tuple(value.name for value in graph.inputs),
        outputs=tuple(value.name for value in graph.outputs),
        steps=analysis.steps,
        mesh=str(mesh),
        operators=operators(found.analysis, found.choice.layout),
        prices=prices(found.analysis, found.choice),
        rows=row_prices(found.choice),
        meshes=tuple(_meshes(analysis, terms, mesh)),
    )


def _meshes(analysis: Analysis, terms: Terms, mesh: Mesh) -> Iterator[MeshRow]:
    """Yield a row for each mesh for which the terms can be met."""
    total, alone = analysis.graph.weight_bytes, _alone(analysis, terms.machine)
    yield MeshRow("one rank", total, 1.0, 0, alone)
    shown = {Mesh(tp=size) for size in SIZES} | {mesh}
    for each in sorted(shown, key=lambda each: (each.size, str(each))):
        with suppress(MeshError, HintError):
            yield _mesh(plan_analysed(analysis, each, terms, needs_work=False))


def _mesh(sharding: Sharding) -> MeshRow:
    held = max(part.weight_bytes for part in sharding.heaviest_parts)
    sent = round(max(part.sent for part in sharding.heaviest_parts))
    total = sharding.graph.weight_bytes or 1
    return MeshRow(str(sharding.mesh), held, held / total, sent, predict(sharding).seconds)


def preview(sharding: Sharding) -> Preview:
    """Describe what a sharding will write."""
    machine = sharding.terms.machine
    found = prices(sharding.analysis, sharding.choice)
    return Preview(
        mesh=str(sharding.mesh),
        steps=sharding.analysis.steps,
        seconds_alone=_alone(sharding.analysis, machine),
        seconds=predict(sharding).seconds,
        ranks=tuple(_rank(sharding, rank, machine) for rank in range(sharding.mesh.size)),
        collectives=sharding.collectives,
        prices=tuple(price for price in found if price.outcome in (TAKEN, WANTED)),
        rows=tuple(row for row in row_prices(sharding.choice) if row.outcome in (TAKEN, WANTED)),
        notes=sharding.notes,
    )


def _rank(sharding: Sharding, rank: int, machine: Machine) -> RankRow:
    analysis, part = sharding.analysis, sharding.part(rank)
    done, steps = rank_work(sharding, rank), analysis.steps
    moved = [*part.moved, *part.given]
    return RankRow(
        rank=rank,
        weight_bytes=part.weight_bytes,
        share=part.weight_bytes / (analysis.graph.weight_bytes or 1),
        multiply_adds=done.multiply_adds,
        collectives=dict(part.collectives),
        states=len(part.states),
        bytes_sent=round(part.sent),
        seconds=machine.computing(done, steps) + machine.moving(moved, steps),
    )


def whole_work(analysis: Analysis) -> Work:
    """Return the work of a run on one rank."""
    return reduce(Work.plus, (work(analysis, site) for site in analysis.sites), Work())


def _alone(analysis: Analysis, machine: Machine) -> float:
    return machine.computing(whole_work(analysis), analysis.steps)


def _operator_table(rows: Sequence[Operator], mesh: str) -> Iterator[str]:
    yield f"operators over {mesh}: nodes that are cut, and why the others are computed whole"
    table: list[Sequence[object]] = [("operator", "nodes", "cut", "multiply-adds", "whole")]
    for row in rows[:MOST_ROWS]:
        made = round(row.multiply_adds)
        table.append((row.name, row.nodes, row.cut, made, _reasons(row.whole)))
    yield aligned(table)
    if rest := rows[MOST_ROWS:]:
        cut, nodes = sum(row.cut for row in rest), sum(row.nodes for row in rest)
        yield f"{len(rest)} more of {nodes} nodes, {cut} cut: " + ", ".join(r.name for r in rest)


def _reasons(whole: dict[str, int]) -> str:
    known = [f"{count} {text}" for text, count in whole.items() if text != NOTHING]
    if NOTHING in whole:
        known.append(f"{whole[NOTHING]} {NOTHING}")
    return "; ".join(known[:2]) + ("; ..." if len(known) > 2 else "")


def _price_table(rows: Sequence[Price]) -> Iterator[str]:
    heads = "axis", "times", "weights", "bytes saved", "ms saved", "calls", "bytes sent"
    table: list[Sequence[object]] = [(*heads, "ms spent", "")]
    for row in rows[:MOST_ROWS]:
        table.append(
            (
                row.axis,
                row.times,
                _listed(map(short, row.weights), WIDEST),
                row.bytes_saved,
                _ms(row.seconds_saved),
                row.calls,
                row.bytes_sent,
                _ms(row.seconds_spent),
                row.outcome,
            )
        )
    yield aligned(table)
    if len(rows) > MOST_ROWS:
        yield f"{len(rows) - MOST_ROWS} more, of fewer bytes"


def _row_table(rows: Sequence[RowPrice]) -> list[str]:
    """Return lines, an empty one behind them, or none."""
    heads = "rows of", "times", "nodes", "sums", "gathers", "ms saved", "ms spent", ""
    table: list[Sequence[object]] = [heads]
    for row in rows[:MOST_ROWS]:
        spent = _ms(row.seconds_saved), _ms(row.seconds_spent)
        table.append((row.axis, row.times, row.nodes, row.sums, row.gathers, *spent, row.outcome))
    title = f"between sums over ranks, each could have its rows alone; of a run ({RUN}):"
    return [title, aligned(table), ""] if rows else []


def _mesh_table(rows: Sequence[MeshRow]) -> str:
    heads = "mesh", "bytes on the heaviest rank", "of all", "bytes sent by a rank", "ms a run"
    table: list[Sequence[object]] = [heads]
    for row in rows:
        table.append(
            (row.mesh, row.weight_bytes, f"{row.share:.1%}", row.bytes_sent, _ms(row.seconds))
        )
    return aligned(table)


def _timed(steps: int) -> str:
    """Say what a time is that of."""
    return f"a run ({RUN})" + (f" and {steps} steps of one token" if steps else "")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _listed(names: Iterable[str], width: int) -> str:
    """List names as far as they fit, and count the others."""
    names, shown = list(names), list[str]()
    while names and (not shown or sum(map(len, shown)) + len(names[0]) + 2 <= width):
        shown.append(names.pop(0))
    return ", ".join(shown) + (f", and {len(names)} more" if names else "")
