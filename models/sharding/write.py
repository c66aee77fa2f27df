"""Sharded models as files: one graph and one weight file per rank, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..errors import MeshError, ModelError
from ..graph import Graph, digest, load
from ..manifest import NAME, REPRESENTATIONS, Manifest, RankEntry
from ..mesh import Mesh
from ..states import batch_metadata
from . import asked
from .hints import Hint, to_hints
from .machine import HERE, Machine
from .part import Held, Part
from .part_file import Progress, silent, write_parts
from .place import placed
from .plan import Sharding, collectives, plan, plan_analysed
from .prediction import predict
from .search import Memory, Terms
from .sequence import without_regions
from .spread.stages import one_stage

__all__ = ["Progress", "Sharding", "plan", "plan_analysed", "shard", "shard_rank", "write_part"]

WHOLE = "model.onnx"
"""The file of a graph that all ranks share."""


def shard(
    source: str | Path,
    directory: str | Path,
    mesh: str | Mapping[str, int] | Mesh,
    *,
    representation: str = "per-rank",
    hints: Mapping[str, Any] | tuple[Hint, ...] = (),
    memory: Memory = None,
    batch_dim: str | None = None,
    machine: Machine = HERE,
    ranks: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Shard a model file into a directory, and return its manifest.

    The directory appears complete or not at all: it is written beside its place and moved there.
    An earlier sharding at that place is replaced; anything else there is an error. Weights are
    read and written one at a time.

    Args:
        mesh: ranks by axis, as in "tp=2,pp=2"; "auto" for what is predicted to be the fastest
        hints: patterns of names of tensors or nodes, each with `whole` or `{"dim": 1}`
        memory: bytes of weights that a rank may hold, or those of each stage; None for little
            more than an even share
        batch_dim: the dim of all inputs that replicas split, or "x=1,y=0"; None for what is found
        machine: what predicted times are those of
        ranks: how many there are; "auto" needs to know

    Raises ModelError, MeshError, HintError, NothingToShard.
    """
    if representation not in REPRESENTATIONS:
        raise ModelError(
            f"expected a representation of {', '.join(REPRESENTATIONS)}, got {representation!r}"
        )
    source, place = Path(source), Path(directory)
    _check_place(place)
    has_halos = representation != "annotated"
    terms = Terms(machine, memory, to_hints(hints), batch_dim, has_halos)
    if representation == "spmd" and machine != HERE:
        raise ModelError("expected no other machine with spmd: its ranks choose as they load")
    sharding = plan(load(source), mesh, terms, ranks)
    if representation == "annotated":  # annotations have no word for a ReduceScatter
        sharding = replace(sharding, choice=without_regions(sharding.choice))
    with placed(place) as beside:
        if representation == "annotated":
            parts = _write_annotated(sharding, beside / WHOLE, progress or silent)
            names = [WHOLE] * sharding.mesh.size
        else:
            names = _write_files(sharding, beside, representation, progress or silent)
            parts = sharding.parts
        manifest = _manifest(source, sharding, representation, names, parts)
        manifest.write(beside)
    return manifest


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
    names = [f"rank{rank}.onnx" for rank in range(size)]
    places = {directory / name: part for name, part in zip(names, sharding.parts, strict=True)}
    _write(sharding, places, progress)
    return names


def _write_annotated(sharding: Sharding, path: Path, progress: Progress) -> tuple[Part, ...]:
    """Write the whole graph with annotations; return what each rank will hold."""
    # Here, since it imports this package.
    from ..dialects import annotating

    if sharding.mesh.dp > 1:
        raise MeshError(f"expected a mesh of tp and pp for annotations, got {sharding.mesh}")
    stages = sharding.stages or one_stage(sharding.analysis)
    nodes = annotating.annotated(sharding.analysis, sharding.choice.layout, stages)
    write_part(sharding, replace(whole_part(sharding.graph), nodes=nodes), path, progress)
    model = ModelProto.FromString(path.read_bytes())
    annotating.configure(model, sharding.mesh.size)
    path.write_bytes(model.SerializeToString())
    return annotating.parts(model, load(path), sharding.mesh.size)


def whole_part(graph: Graph) -> Part:
    """Return the whole graph, as a part that all ranks share."""
    held = {
        name: Held(name, weight, (None,) * len(weight.shape))
        for name, weight in graph.weights.items()
    }
    return Part(0, list(graph.nodes), held)


def write_part(sharding: Sharding, part: Part, path: Path, progress: Progress) -> None:
    """Write one rank's graph, and its weights beside it, one at a time."""
    _write(sharding, {path: part}, progress)


def _write(sharding: Sharding, places: Mapping[Path, Part], progress: Progress) -> None:
    """Write the graphs of ranks, with what is known of the sharding."""
    batch = sharding.batch.batch
    own = {"rankwise.mesh": str(sharding.mesh)} | asked.to_metadata(sharding.terms)
    own |= batch_metadata(batch.inputs if batch else {})
    if sharding.notes:
        own["rankwise.notes"] = "\n".join(sharding.notes)
    write_parts(sharding.graph, places, own, progress)


def _manifest(
    source: Path,
    sharding: Sharding,
    representation: str,
    names: list[str],
    parts: Sequence[Part],
) -> Manifest:
    graph, batch = sharding.graph, sharding.batch.batch
    found = predict(sharding)
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
        ranks=tuple(_entry(sharding, *each) for each in zip(names, parts, strict=True)),
        collectives=collectives(sharding.mesh, parts),
        predicted={
            "bytes_sent_per_rank": round(max(part.sent for part in sharding.parts)),
            "seconds": found.seconds,
            "stage_seconds": list(found.stages),
        },
        batch=dict(batch.inputs) if batch is not None else {},
        notes=sharding.notes,
    )


def _entry(sharding: Sharding, name: str, part: Part) -> RankEntry:
    stage = sharding.mesh.place(part.rank).pp
    is_idle = not part.held and not part.constants
    first, last = ("", "") if is_idle else sharding.ends(stage)
    return RankEntry(name, part.weight_bytes, stage, first, last)


def shard_rank(
    source: str | Path | bytes,
    mesh: str | Mapping[str, int] | Mesh,
    rank: int,
    directory: str | Path,
    terms: Terms | None = None,
    ranks: int | None = None,
) -> Path:
    """Write one rank's graph and weights into a directory; return the graph's path.

    All ranks that call this with the same arguments make graphs that fit together. Without terms
    they are those that the model keeps. Raises ModelError, MeshError, HintError, NothingToShard.
    """
    graph = load(source)
    terms = asked.from_metadata(graph.metadata) if terms in (None, Terms()) else terms
    sharding = plan(graph, mesh, terms, ranks)
    path = Path(directory) / f"rank{rank}.onnx"
    write_part(sharding, sharding.part(rank), path, silent)
    return path
