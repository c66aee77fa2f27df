"""The choices for a graph and a mesh: what tp cuts, where stages begin, what replicas split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from ..errors import HintError, MemoryLimitError, MeshError, ModelError, NothingToShard
from ..graph import Graph
from ..mesh import Mesh, meshes
from ..nodes import attribute, label, with_inner
from ..opset import DOMAIN
from ..plan import communicates_within
from .analysis import Analysis, analyse
from .heads import choose_by_head
from .part import Part
from .partition import partition
from .prediction import predict
from .search import Choice, Terms
from .sequence import with_regions
from .spread.batch import Found, asked_batch, find_batch, with_open_batch
from .spread.placement import place
from .spread.stages import Stages, balanced, one_stage

MOST_RANKS = 64
"""Numbers of ranks that are tried where a mesh cannot hold a model."""


NONE = Found(None)


@dataclass(frozen=True)
class Sharding:
    """A graph, the mesh, and the choices that were made for it."""

    analysis: Analysis
    mesh: Mesh
    choice: Choice
    terms: Terms = field(default_factory=Terms)
    """what they were made for"""
    stages: Stages | None = None
    """None where there is one"""
    batch: Found = NONE
    """what replicas split"""

    @property
    def graph(self) -> Graph:
        return self.analysis.graph

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The graphs of all ranks."""
        return tuple(self.part(rank) for rank in range(self.mesh.size))

    def part(self, rank: int) -> Part:
        """Return the graph of a rank."""
        if rank not in self._parts:
            self._parts[rank] = place(
                self.analysis, self.choice.layout, self.row(self.mesh.place(rank).tp),
                self.stages or one_stage(self.analysis), self.batch.batch, self.mesh, rank,
            )  # fmt: skip
        return self._parts[rank]

    @property
    def heaviest_parts(self) -> tuple[Part, ...]:
        """The graphs of the first rank of each stage: no other of the stage holds more."""
        step = self.mesh.dp * self.mesh.tp
        return tuple(self.part(stage * step) for stage in range(self.mesh.pp))

    def row(self, tp: int) -> Part:
        """Return the whole graph as the ranks at one place of tp have it."""
        if tp not in self._rows:
            self._rows[tp] = partition(self.analysis, self.choice.layout, tp)
        return self._rows[tp]

    @cached_property
    def _rows(self) -> dict[int, Part]:
        return {}

    @cached_property
    def _parts(self) -> dict[int, Part]:
        return {}

    @cached_property
    def collectives(self) -> dict[str, int]:
        """Collectives and messages of a run, by operator; those of a group count once."""
        return collectives(self.mesh, self.parts)

    def ends(self, stage: int) -> tuple[str, str]:
        """Name the first and the last node of a stage."""
        stages, sites = (self.stages or one_stage(self.analysis)).of, self.analysis.outermost
        inside = [site.node for site, of in zip(sites, stages, strict=True) if of == stage]
        return (label(inside[0]), label(inside[-1])) if inside else ("", "")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person ought to know of it."""
        if self.mesh.dp == 1 or self.batch.batch is not None:
            return ()
        idle = f"{self.mesh.dp - 1} of {self.mesh.dp} replicas are idle"
        return (f"{idle}, since no batch was found: {self.batch.why}; --batch-dim names one",)


def collectives(mesh: Mesh, parts: Sequence[Part]) -> dict[str, int]:
    """Count the collectives and messages of all ranks by operator, those of a group once."""
    sizes = {"": mesh.size, **mesh.axes}
    counts = dict[str, Fraction]()
    for node in (node for part in parts for node in with_inner(part.nodes)):
        if node.domain == DOMAIN and node.op_type != "Recv":
            taking = sizes[str(attribute(node, "axis_name", ""))]
            share = Fraction(1, 1 if node.op_type == "Send" else taking)
            counts[node.op_type] = counts.get(node.op_type, Fraction()) + share
    return {op: int(count) for op, count in counts.items()}


def plan(
    graph: Graph,
    mesh: str | Mapping[str, int] | Mesh,
    terms: Terms | None = None,
    ranks: int | None = None,
) -> Sharding:
    """Analyse a graph and choose what to shard; "auto" is the best mesh of so many ranks.

    Raises NothingToShard, MeshError, HintError, and ModelError for a graph that communicates.
    """
    for node in graph.nodes:
        if communicates_within(node) or node.op_type.startswith("Distributed"):
            raise ModelError(
                f"expected a graph of one process, but {label(node)} communicates; rankwise run "
                "takes it as it stands"
            )
    if mesh == "auto":
        if ranks is None:
            raise MeshError("expected a number of ranks for the mesh auto; give --ranks")
        return best(analyse(graph), ranks, terms)
    wanted = Mesh.parse(mesh)
    if ranks is not None and wanted.size != ranks:
        raise MeshError(_wrong_size(wanted, ranks))
    return plan_analysed(analyse(graph), wanted, terms)


def _wrong_size(mesh: Mesh, ranks: int) -> str:
    fitting = ", ".join(map(str, meshes(ranks)))
    return f"expected a mesh of {ranks} ranks, got {mesh}, of {mesh.size}; {fitting} would do"


def plan_analysed(
    analysis: Analysis, mesh: Mesh, terms: Terms | None = None, *, needs_work: bool = True
) -> Sharding:
    """Choose what to shard of a graph whose axes are known.

    Where nothing can be cut over tp, that is an error if every rank is to have work of its own.
    Raises NothingToShard, MeshError, HintError.
    """
    terms = terms or Terms()
    try:
        return _planned(analysis, mesh, terms, needs_work)
    except MemoryLimitError as error:
        raise MeshError(f"{error}; {_what_would_hold(analysis, mesh, terms)}") from None


def best(analysis: Analysis, ranks: int, terms: Terms | None = None) -> Sharding:
    """Return the sharding that is predicted to be the fastest of all meshes of so many ranks.

    Of those that are as fast the one with the most of tp is taken, then of pp. Raises MeshError
    where none holds the model, NothingToShard where none has work for all ranks.
    """
    terms = terms or Terms()
    found, errors = list[tuple[float, Sharding]](), list[Exception]()
    for mesh in meshes(ranks):
        try:
            sharding = _planned(analysis, mesh, terms)
            found.append((predict(sharding).seconds, sharding))
        except (MeshError, NothingToShard) as error:
            errors.append(error)
    if found:
        return min(found, key=lambda each: each[0])[1]
    if isinstance(errors[0], MemoryLimitError):
        raise MeshError(f"{errors[0]}; {_what_would_hold(analysis, meshes(ranks)[0], terms)}")
    raise errors[0]


def _planned(analysis: Analysis, mesh: Mesh, terms: Terms, needs_work: bool = True) -> Sharding:
    found = NONE
    if mesh.dp > 1:
        found = _batch(analysis, terms.batch_dim)
        analysis = analysis if found.batch is None else with_open_batch(analysis, found.batch)
    own = terms if mesh.pp == 1 else replace(terms, memory=None)
    analysis, choice = choose_by_head(analysis, mesh.tp, own)
    choice = with_regions(analysis, choice, terms.machine)
    if mesh.tp > 1 and needs_work and not choice.chosen:
        raise NothingToShard(_why_nothing(analysis, mesh))
    sharding = Sharding(analysis, mesh, choice, terms, batch=found)
    if mesh.pp == 1:
        return sharding
    stages = balanced(analysis, choice.layout, sharding.row(0), mesh.pp, terms)
    return replace(sharding, stages=stages)


def _batch(analysis: Analysis, asked: str | None) -> Found:
    return find_batch(analysis) if asked is None else Found(asked_batch(analysis, asked))


def _what_would_hold(analysis: Analysis, mesh: Mesh, terms: Terms) -> str:
    """Say which mesh, the smallest and with the most of tp, holds what one does not."""
    for each in _larger(mesh.size):
        try:
            _planned(analysis, each, terms)
        except (HintError, MeshError, NothingToShard):
            continue
        return f"{each} would do"
    return f"no mesh of up to {MOST_RANKS} ranks would do"


def _larger(size: int) -> Iterator[Mesh]:
    """Yield meshes of tp and pp, of as many ranks and more."""
    while size <= MOST_RANKS:
        yield from (mesh for mesh in meshes(size) if mesh.dp == 1)
        size *= 2


def _why_nothing(analysis: Analysis, mesh: Mesh) -> str:
    text = f"nothing in this graph can be sharded over tp={mesh.tp}"
    alone = "run it with one rank" if mesh.size == mesh.tp else "leave tp out of the mesh"
    if not any(weight.shape for weight in analysis.graph.weights.values()):
        return f"{text}: it has no weights; {alone}"
    obstacles = {
        f"{site.node.op_type} ({site.obstacle})": None
        for site in analysis.sites
        if site.obstacle is not None
    }
    if obstacles:
        return f"{text}: {', '.join(list(obstacles)[:3])}; {alone}"
    return f"{text}: no dim of its weights has {mesh.tp} parts; take fewer ranks"
