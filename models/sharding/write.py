"""Sharded models as files: one graph and one weight file per rank, and the manifest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, helper

from ..errors import MeshError, ModelError, NothingToShard
from ..graph import FED_WHOLE, MAX_IR, Graph, digest, load
from ..manifest import NAME, REPRESENTATIONS, Manifest, RankEntry
from ..mesh import Mesh
from ..opset import DOMAIN, VERSION
from ..plan import sealed
from ..states import to_metadata
from ..weights import Array, WeightFile
from . import asked
from .analysis import Analysis, analyse
from .heads import choose_by_head
from .hints import Hint, to_hints
from .machine import HERE, Machine
from .partition import Held, Part, partition
from .search import Choice, Terms

WHOLE = "model.onnx"
"""The file of a graph that all ranks share."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""


@dataclass(frozen=True)
class Sharding:
    """A graph, the mesh, and the choice that was made for it."""

    analysis: Analysis
    mesh: Mesh
    choice: Choice
    terms: Terms = field(default_factory=Terms)
    """what it was made for"""

    @property
    def graph(self) -> Graph:
        return self.analysis.graph

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The graphs of all ranks."""
        return tuple(self.part(rank) for rank in range(self.mesh.size))

    def part(self, rank: int) -> Part:
        return partition(self.analysis, self.choice.layout, rank)


def plan(graph: Graph, mesh: Mesh, terms: Terms | None = None) -> Sharding:
    """Analyse a graph and choose what to shard.

    Raises NothingToShard, MeshError, HintError.
    """
    return plan_analysed(analyse(graph), mesh, terms)


def plan_analysed(analysis: Analysis, mesh: Mesh, terms: Terms | None = None) -> Sharding:
    """Choose what to shard of a graph whose axes are known.

    Raises NothingToShard, MeshError, HintError.
    """
    terms = terms or Terms()
    analysis, choice = choose_by_head(analysis, tensor_parallel(mesh), terms)
    if mesh.size > 1 and not choice.chosen:
        raise NothingToShard(_why_nothing(analysis, mesh))
    return Sharding(analysis, mesh, choice, terms)


def tensor_parallel(mesh: Mesh) -> int:
    """Return the number of ranks of a mesh of tp alone. Raises MeshError for others."""
    if mesh.size != mesh.tp:
        raise MeshError(f"expected a mesh of tp alone, such as tp={mesh.size}, got {mesh}")
    return mesh.size


def _why_nothing(analysis: Analysis, mesh: Mesh) -> str:
    text = f"nothing in this graph can be sharded over {mesh}"
    if not any(weight.shape for weight in analysis.graph.weights.values()):
        return f"{text}: it has no weights; run it with one rank"
    obstacles = {
        f"{site.node.op_type} ({site.obstacle})": None
        for site in analysis.sites
        if site.obstacle is not None
    }
    if obstacles:
        return f"{text}: {', '.join(list(obstacles)[:3])}; run it with one rank"
    return f"{text}: no dim of its weights has {mesh.size} parts; run it with fewer ranks"


def shard(
    source: str | Path,
    directory: str | Path,
    mesh: str | Mesh,
    *,
    representation: str = "per-rank",
    hints: Mapping[str, Any] | tuple[Hint, ...] = (),
    memory: int | None = None,
    machine: Machine = HERE,
    progress: Progress | None = None,
) -> Manifest:
    """Shard a model file into a directory, and return its manifest.

    The directory appears complete or not at all: it is written beside its place and moved there.
    An earlier sharding at that place is replaced; anything else there is an error. Weights are
    read and written one at a time.

    Args:
        hints: patterns of names of tensors or nodes, each with `whole` or `{"dim": 1}`
        memory: bytes of weights that a rank may hold; None for little more than an even share
        machine: what predicted times are those of

    Raises ModelError, MeshError, HintError, NothingToShard.
    """
    if representation not in REPRESENTATIONS:
        raise ModelError(
            f"expected a representation of {', '.join(REPRESENTATIONS)}, got {representation!r}"
        )
    source, place = Path(source), Path(directory)
    _check_place(place)
    mesh = Mesh.parse(mesh)
    terms = Terms(machine, memory, to_hints(hints))
    if representation == "spmd" and machine != HERE:
        raise ModelError("expected no other machine with spmd: its ranks choose as they load")
    sharding = plan(load(source), mesh, terms)
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.absolute().parent))
    try:
        if representation == "annotated":
            parts = _write_annotated(sharding, beside / WHOLE, progress or _silent)
            names = [WHOLE] * mesh.size
        else:
            names = _write_files(sharding, beside, representation, progress or _silent)
            parts = sharding.parts
        manifest = _manifest(source, sharding, representation, names, parts)
        manifest.write(beside)
        # mkdtemp makes a directory for its owner alone; a sharded model is as open as any file.
        beside.chmod(0o777 & ~_umask())
        if place.is_dir():
            shutil.rmtree(place)
        beside.replace(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return manifest


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_place(place: Path) -> None:
    if place.is_file():
        raise ModelError(f"expected a directory to write, but {place} is a file")
    if place.is_dir() and any(place.iterdir()) and not (place / NAME).is_file():
        raise ModelError(f"{place} holds files that are no sharded model; name another directory")


def _write_files(
    sharding: Sharding, directory: Path, representation: str, progress: Progress
) -> list[str]:
    """Write the models; return each rank's file name."""
    size = sharding.mesh.size
    if representation == "spmd":
        write_part(sharding, whole_part(sharding.graph), directory / WHOLE, progress)
        return [WHOLE] * size
    total, done = sum(part.weight_bytes for part in sharding.parts), 0
    for part in sharding.parts:
        path = directory / f"rank{part.rank}.onnx"
        write_part(sharding, part, path, partial(_report, progress, done, total))
        done += part.weight_bytes
    return [f"rank{rank}.onnx" for rank in range(size)]


def _write_annotated(sharding: Sharding, path: Path, progress: Progress) -> tuple[Part, ...]:
    """Write the whole graph with annotations; return what each rank will hold."""
    # Here, since it imports this package.
    from ..dialects import annotating

    if sharding.mesh.size != sharding.mesh.tp:
        raise MeshError(f"expected a mesh of tp alone for annotations, got {sharding.mesh}")
    nodes = annotating.annotated(sharding.analysis, sharding.choice.layout)
    write_part(sharding, replace(whole_part(sharding.graph), nodes=nodes), path, progress)
    model = ModelProto.FromString(path.read_bytes())
    annotating.configure(model, sharding.mesh.size)
    path.write_bytes(model.SerializeToString())
    return annotating.parts(model, load(path), sharding.mesh.size)


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def whole_part(graph: Graph) -> Part:
    """Return the whole graph, as a part that all ranks share."""
    held = {
        name: Held(name, weight, (None,) * len(weight.shape))
        for name, weight in graph.weights.items()
    }
    return Part(0, list(graph.nodes), held)


def write_part(sharding: Sharding, part: Part, path: Path, progress: Progress) -> None:
    """Write one rank's graph, and its weights beside it, one at a time."""
    done, initializers = 0, list[TensorProto]()
    with WeightFile(path.with_suffix(".data")) as file:
        for name, array in _arrays(part):
            initializers.append(file.append(name, array))
            done += array.nbytes
            progress(done, part.weight_bytes)
    path.write_bytes(_model(sharding, part, initializers).SerializeToString())


def _arrays(part: Part) -> Iterator[tuple[str, Array]]:
    for name, held in part.held.items():
        yield name, held.weight.read(held.kept)
    for name, weight in part.constants.items():
        yield name, weight.read()


def _model(sharding: Sharding, part: Part, initializers: list[TensorProto]) -> ModelProto:
    graph = sharding.graph
    opsets = graph.opsets | ({DOMAIN: VERSION} if part.collectives else {})
    body = helper.make_graph(
        part.nodes, graph.name or "model", graph.inputs, graph.outputs, initializers
    )
    body.value_info.extend(part.value_info.values())
    model = helper.make_model(
        body,
        ir_version=min(graph.ir_version, MAX_IR),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        producer_name="rankwise",
    )
    own = {"rankwise.mesh": str(sharding.mesh), "rankwise.rank": str(part.rank)}
    own |= asked.to_metadata(sharding.terms) | FED_WHOLE
    helper.set_model_props(model, graph.metadata | own | to_metadata(part.states))
    return sealed(model)


def _manifest(
    source: Path,
    sharding: Sharding,
    representation: str,
    names: list[str],
    parts: Sequence[Part],
) -> Manifest:
    graph = sharding.graph
    return Manifest(
        source={
            "path": str(source.absolute()),
            "sha256": digest(source),
            "ir_version": graph.ir_version,
            "opset": graph.opsets.get("", 0),
        },
        mesh={name: size for name, size in sharding.mesh.axes.items() if size > 1} or {"tp": 1},
        representation=representation,
        world_size=sharding.mesh.size,
        ranks=tuple(
            RankEntry(name, part.weight_bytes) for name, part in zip(names, parts, strict=True)
        ),
        collectives=dict(parts[0].collectives),
        predicted={"bytes_sent_per_rank": round(sharding.parts[0].sent)},
    )


def shard_rank(
    source: str | Path | bytes,
    mesh: str | Mesh,
    rank: int,
    directory: str | Path,
    terms: Terms | None = None,
) -> Path:
    """Write one rank's graph and weights into a directory; return the graph's path.

    All ranks that call this with the same arguments make graphs that fit together. Without terms
    they are those that the model keeps. Raises ModelError, MeshError, HintError, NothingToShard.
    """
    graph = load(source)
    terms = asked.from_metadata(graph.metadata) if terms in (None, Terms()) else terms
    sharding = plan(graph, Mesh.parse(mesh), terms)
    path = Path(directory) / f"rank{rank}.onnx"
    write_part(sharding, sharding.part(rank), path, _silent)
    return path
