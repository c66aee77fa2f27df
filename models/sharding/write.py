"""Sharded models as files: one graph and one weight file per rank, and the manifest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, helper

from ..errors import MeshError, ModelError
from ..graph import FED_WHOLE, MAX_IR, Graph, digest, load
from ..manifest import NAME, REPRESENTATIONS, Manifest, RankEntry
from ..mesh import Mesh
from ..opset import DOMAIN, VERSION
from ..plan import sealed
from ..states import batch_metadata, to_metadata
from ..weights import Array, WeightFile
from . import asked
from .hints import Hint, to_hints
from .machine import HERE, Machine
from .part import Held, Part
from .plan import Sharding, collectives, plan, plan_analysed
from .prediction import predict
from .search import Memory, Terms
from .stages import one_stage

__all__ = ["Progress", "Sharding", "plan", "plan_analysed", "shard", "shard_rank", "write_part"]

WHOLE = "model.onnx"
"""The file of a graph that all ranks share."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""


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
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.absolute().parent))
    try:
        if representation == "annotated":
            parts = _write_annotated(sharding, beside / WHOLE, progress or _silent)
            names = [WHOLE] * sharding.mesh.size
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
    names = [f"rank{rank}.onnx" for rank in range(size)]
    places = {directory / name: part for name, part in zip(names, sharding.parts, strict=True)}
    write_parts(sharding, places, progress)
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
    write_parts(sharding, {path: part}, progress)


def write_parts(sharding: Sharding, places: Mapping[Path, Part], progress: Progress) -> None:
    """Write the graphs of ranks, and their weights beside them, one at a time.

    All ranks' parts of a weight are written before the next one, so that a model larger than
    memory is read from the disk once.
    """
    done, total = 0, sum(part.weight_bytes for part in places.values())
    with ExitStack() as stack:
        initializers = dict[Path, list[TensorProto]]()
        files = dict[Path, WeightFile]()
        for path in places:
            initializers[path] = []
            files[path] = stack.enter_context(WeightFile(path.with_suffix(".data")))
        for path, name, array in _arrays(places):
            initializers[path].append(files[path].append(name, array))
            done += array.nbytes
            progress(done, total)
    for path, part in places.items():
        path.write_bytes(_model(sharding, part, initializers[path]).SerializeToString())


def _arrays(places: Mapping[Path, Part]) -> Iterator[tuple[Path, str, Array]]:
    """Yield what each rank holds, by the weight that it is of."""
    holders: dict[str, list[tuple[Path, str, Held]]] = {}
    for path, part in places.items():
        for name, held in part.held.items():
            holders.setdefault(held.weight.name, []).append((path, name, held))
    for several in holders.values():
        for path, name, held in several:
            yield path, name, held.weight.read(held.kept)
    for path, part in places.items():
        for name, weight in part.constants.items():
            yield path, name, weight.read()


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
    own |= batch_metadata(sharding.batch.batch.inputs if sharding.batch.batch else {})
    if sharding.notes:
        own["rankwise.notes"] = "\n".join(sharding.notes)
    helper.set_model_props(model, graph.metadata | own | to_metadata(part.states))
    return sealed(model)


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
    write_part(sharding, sharding.part(rank), path, _silent)
    return path
