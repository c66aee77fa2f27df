"""What this rank runs: found in a file or a directory, or sharded on the fly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from onnx import ModelProto

from ..models.dialects import ort_distributed
from ..models.dialects.annotations import is_annotated, lower_rank
from ..models.dialects.translation import translated
from ..models.errors import HintError, MeshError, ModelError
from ..models.functions import check_places, native
from ..models.graph import MAX_IR, MAX_OPSET, mesh_of, opsets, read
from ..models.groups import members
from ..models.manifest import Manifest
from ..models.mesh import Mesh, meshes, ranks
from ..models.plan import check_whole, communicates
from ..models.sharding import shard_rank
from ..models.sharding.search import Terms
from ..models.weights import initializers

Functions = Literal["native", "literal"]
"""How a function that is a known collective runs: as the operator, or as it is written."""


@dataclass(frozen=True)
class Loaded:
    """One rank's model."""

    model: ModelProto
    folder: Path | None
    """where its external data lies"""
    mesh: Mesh | None
    source: str | bytes
    """what onnxruntime can load itself, if the model does not communicate"""
    is_rewritten: bool = False
    """whether the model is another one than its source"""
    is_sharded_here: bool = False
    """whether it was cut by this call, and not read"""
    notes: tuple[str, ...] = ()
    """what a person ought to know of how it is sharded"""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the initializers that this rank holds."""
        return sum(w.nbytes for w in initializers(self.model.graph, self.folder).values())

    @property
    def is_plain(self) -> bool:
        """Whether onnxruntime reads the source as it stands, without a plan."""
        if self.is_rewritten:
            return False
        newest = opsets(self.model).get("", 0)
        is_recent = self.model.ir_version > MAX_IR or newest > MAX_OPSET
        return not communicates(self.model) and not is_recent


def load_rank(
    source: str | Path | bytes,
    mesh: str | Mapping[str, int] | Mesh | None,
    rank: int,
    size: int,
    scratch: Path,
    terms: Terms | None = None,
) -> Loaded:
    """Find or make the model of one rank of `size`; what is made is written to `scratch`.

    A model file without communication is sharded where there are several ranks, to `mesh` or else
    tp = size, for `terms` or those that it keeps; the mesh "auto" is the best for them. Nothing
    else takes terms. One with communication runs as it stands, and may be another one on each
    rank. One whose nodes have device configurations is run as these say, where no mesh is asked
    for; in a directory, where no other mesh is than that of its manifest.

    Raises ModelError, MeshError, HintError, NothingToShard.
    """
    wanted = None if mesh is None else "auto" if mesh == "auto" else Mesh.parse(mesh)
    if not isinstance(source, bytes) and Path(source).is_dir():
        return _load_directory(Path(source), wanted, rank, size, scratch, terms)
    if isinstance(wanted, Mesh) and wanted.size != size:
        fitting = ", ".join(map(str, meshes(size)))
        raise MeshError(
            f"the mesh {wanted} is of {ranks(wanted.size)}, but there "
            f"{'is' if size == 1 else 'are'} {size}; start {wanted.size}, or take {fitting}"
        )
    loaded = _open(source, size)
    asked = wanted if isinstance(wanted, Mesh) else None
    if ort_distributed.speaks(loaded.model):
        _refuse(terms, "the model communicates")
        model = ort_distributed.lowered(loaded.model, rank, size)
        return replace(loaded, model=model, mesh=asked, is_rewritten=True)
    if communicates(loaded.model):
        _refuse(terms, "the model communicates")
    if size > 1 and wanted is None and is_annotated(loaded.model):
        _refuse(terms, "the model has device configurations")
        return _open(lower_rank(source, rank, size, scratch), size)
    if size == 1 or communicates(loaded.model):
        _check_place(loaded, rank, size)
        return replace(loaded, mesh=loaded.mesh or asked)
    made = _open(shard_rank(source, wanted or Mesh(tp=size), rank, scratch, terms, size))
    return replace(made, is_sharded_here=True)


def settled(loaded: Loaded, functions: Functions, rank: int, size: int) -> Loaded:
    """Return a model whose functions that are collectives run as operators, or literally.

    Raises ModelError for a function of another place than this rank's.
    """
    if functions not in get_args(Functions):
        raise ValueError(f"expected functions of native, literal, got {functions!r}")

    def place(attributes: Mapping[str, Any]) -> tuple[int, int]:
        ranks = members(attributes, loaded.mesh, rank, size)
        return ranks.index(rank), len(ranks)

    if functions == "native":
        return replace(loaded, model=native(loaded.model, place))
    check_places(loaded.model, place)
    return loaded


def _load_directory(
    directory: Path,
    wanted: Mesh | str | None,
    rank: int,
    size: int,
    scratch: Path,
    terms: Terms | None,
) -> Loaded:
    manifest = Manifest.read(directory)
    made = Mesh.parse(manifest.mesh)
    path = directory / manifest.ranks[min(rank, manifest.world_size - 1)].model
    usual = made if made.size == size else None
    if manifest.representation == "annotated" and usual and wanted in (None, usual):
        return replace(load_rank(path, None, rank, size, scratch, terms), mesh=usual)
    if manifest.representation != "per-rank":
        return load_rank(path, wanted or usual, rank, size, scratch, terms)
    _refuse(terms, f"{directory} is sharded")
    if made.size != size:
        raise MeshError(
            f"{directory} is sharded for {ranks(made.size)}, but there "
            f"{'is' if size == 1 else 'are'} {size}; start {made.size} or shard the model again"
        )
    if wanted is not None and wanted != made:
        raise MeshError(f"{directory} is sharded to the mesh {made}, not {wanted}; leave it out")
    loaded = _open(path, size)
    _check_place(loaded, rank, size)
    return loaded


def _refuse(terms: Terms | None, what: str) -> None:
    """Raise HintError where terms are given for what is not cut any more."""
    if terms not in (None, Terms()):
        raise HintError(
            f"expected no hints, memory or batch_dim, since {what} already; leave them out, or "
            "shard the whole model with them"
        )


def _open(source: str | Path | bytes, size: int | None = None) -> Loaded:
    model, folder = read(source)
    model = translated(model, size)
    initializers(model.graph, folder)  # raises for external data that is missing or truncated
    if not communicates(model):
        check_whole(model)  # what has lost all of it would be taken for what is to be sharded
    # What does not communicate is made for any number of ranks, whatever it was written for.
    mesh = mesh_of(model) if communicates(model) else None
    notes = {entry.key: entry.value for entry in model.metadata_props}.get("rankwise.notes", "")
    return Loaded(
        model, folder, mesh, source if isinstance(source, bytes) else str(source),
        notes=tuple(notes.splitlines()),
    )  # fmt: skip


def _check_place(loaded: Loaded, rank: int, size: int) -> None:
    """Refuse the graph of another rank, or of another number of ranks: it would answer wrongly."""
    metadata = {entry.key: entry.value for entry in loaded.model.metadata_props}
    made_for = metadata.get("rankwise.rank", str(rank))
    if loaded.mesh is None:
        return
    if loaded.mesh.size != size:
        raise MeshError(
            f"the model is made for the mesh {loaded.mesh}, of {ranks(loaded.mesh.size)}, "
            f"but there {'is' if size == 1 else 'are'} {size}; start {loaded.mesh.size}"
        )
    if made_for != str(rank):
        raise ModelError(f"the model is made for rank {made_for}, but this is rank {rank}")
