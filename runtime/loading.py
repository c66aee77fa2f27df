"""What this rank runs: found in a file or a directory, or sharded on the fly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from ..models.errors import MeshError, ModelError
from ..models.graph import MAX_IR, MAX_OPSET, opsets, read
from ..models.manifest import Manifest
from ..models.mesh import Mesh, meshes, ranks
from ..models.plan import communicates
from ..models.sharding import shard_rank
from ..models.sharding.search import Terms
from ..models.weights import initializers


@dataclass(frozen=True)
class Loaded:
    """One rank's model."""

    model: ModelProto
    folder: Path | None
    """where its external data lies"""
    mesh: Mesh | None
    source: str | bytes
    """what onnxruntime can load itself, if the model does not communicate"""
    notes: tuple[str, ...] = ()
    """what a person ought to know of how it is sharded"""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the initializers that this rank holds."""
        return sum(w.nbytes for w in initializers(self.model.graph, self.folder).values())

    @property
    def is_plain(self) -> bool:
        """Whether onnxruntime reads the source as it stands, without a plan."""
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
    tp = size; the mesh "auto" is the best for `terms`. One with communication runs as it stands,
    and may be another one on each rank.

    Raises ModelError, MeshError, NothingToShard.
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
    loaded = _open(source)
    if size == 1 or communicates(loaded.model):
        _check_place(loaded, rank, size)
        asked = wanted if isinstance(wanted, Mesh) else None
        return replace(loaded, mesh=loaded.mesh or asked)
    return _open(shard_rank(source, wanted or Mesh(tp=size), rank, scratch, terms, size))


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
    if manifest.representation == "spmd":
        usual = made if made.size == size else None
        return load_rank(path, wanted or usual, rank, size, scratch, terms)
    if made.size != size:
        raise MeshError(
            f"{directory} is sharded for {ranks(made.size)}, but there "
            f"{'is' if size == 1 else 'are'} {size}; start {made.size} or shard the model again"
        )
    if wanted is not None and wanted != made:
        raise MeshError(f"{directory} is sharded to the mesh {made}, not {wanted}; leave it out")
    if terms is not None and terms != Terms():
        raise MeshError(f"{directory} is sharded already; leave memory and batch_dim out")
    loaded = _open(path)
    _check_place(loaded, rank, size)
    return loaded


def _open(source: str | Path | bytes) -> Loaded:
    model, folder = read(source)
    initializers(model.graph, folder)  # raises for external data that is missing or truncated
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # What does not communicate is made for any number of ranks, whatever it was written for.
    text = metadata.get("rankwise.mesh") if communicates(model) else None
    return Loaded(
        model, folder, None if text is None else Mesh.parse(text),
        source if isinstance(source, bytes) else str(source),
        tuple(metadata.get("rankwise.notes", "").splitlines()),
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
            f"but there {'is' if size == 1 else 'are'} {size}"
        )
    if made_for != str(rank):
        raise ModelError(f"the model is made for rank {made_for}, but this is rank {rank}")
