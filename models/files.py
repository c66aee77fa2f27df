"""Models and sharded directories on disk, changed and written elsewhere."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from .effects import is_effect
from .errors import MeshError, ModelError
from .graph import digest, opsets, read
from .manifest import NAME, Manifest, RankEntry
from .mesh import Mesh
from .nodes import every_node, subgraphs
from .opset import is_ours
from .weights import initializers


def models_of(source: str | Path) -> dict[Path, ModelProto]:
    """Return the models of a file, or of a sharded directory, by rank. Raises ModelError."""
    path = Path(source)
    if not path.is_dir():
        return {path: read(path)[0]}
    manifest = Manifest.read(path)
    return {path / entry.model: read(path / entry.model)[0] for entry in manifest.ranks}


def check_output(source: str | Path, output: str | Path) -> None:
    """Raise ModelError for an output that is its source, or that is no place for it."""
    source, output = Path(source), Path(output)
    if output.resolve() == source.resolve():
        raise ModelError(f"expected an output beside {source}, got the same; name another")
    if source.is_dir():
        check_folder(output)
    if not source.is_dir() and output.is_dir():
        raise ModelError(f"expected a file to write to, but {output} is a directory")


def write_changed(
    models: Mapping[Path, ModelProto], source: str | Path, output: str | Path
) -> None:
    """Write the changed models of `source` to a file, or to a directory as it is one.

    External data is copied where it is not in the same folder. Raises ModelError for data that
    would replace other data.
    """
    source, output = Path(source), Path(output)
    folder = output if source.is_dir() else output.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    _copy_data(models.values(), next(iter(models)).absolute().parent, folder)
    if source.is_dir():
        begin(folder, source)
    for path, model in models.items():
        target = folder / path.name if source.is_dir() else output
        target.write_bytes(model.SerializeToString())
    if source.is_dir():
        shutil.copyfile(source / NAME, output / NAME)


def write_ranks(
    models: Sequence[ModelProto],
    source: str | Path,
    output: str | Path,
    mesh: Mesh | None,
    *,
    data: Path | None = None,
) -> None:
    """Write a model for each rank, all of them made of one file, as a sharded directory.

    Their external data lies in the folder `data`, or else beside the file. Models of ranks that
    were there before go. Raises MeshError for another number of ranks than the mesh has, and
    ModelError for an output that is no place for it, and for data that would replace other data.
    """
    source, output = Path(source), Path(output)
    if mesh is not None and mesh.size != len(models):
        raise MeshError(
            f"the model is made for the mesh {mesh}, of {mesh.size} ranks, not {len(models)}"
        )
    if data is None:
        check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    names = [f"rank{rank}.onnx" for rank in range(len(models))]
    _copy_data(models, data or source.absolute().parent, output)
    begin(output, source)
    for name, model in zip(names, models, strict=True):
        (output / name).write_bytes(model.SerializeToString())
    weights = [initializers(model.graph, output).values() for model in models]
    nbytes = [sum(weight.nbytes for weight in held) for held in weights]
    effects = filter(is_effect, filter(is_ours, every_node(models[0])))
    Manifest(
        source={
            "path": str(source.absolute()),
            "sha256": digest(source),
            "ir_version": models[0].ir_version,
            "opset": opsets(models[0]).get("", 0),
        },
        mesh=dict(mesh.axes) if mesh is not None else {"tp": len(models)},
        representation="per-rank",
        world_size=len(models),
        ranks=tuple(map(RankEntry, names, nbytes)),
        collectives=dict(Counter(node.op_type for node in effects)),
    ).write(output)


def check_folder(output: Path) -> None:
    """Raise ModelError for a place of a directory where there is a file, or other files."""
    if output.exists() and not output.is_dir():
        raise ModelError(f"expected a directory to write to, but {output} is a file")
    if output.is_dir() and any(output.iterdir()) and not (output / NAME).is_file():
        raise ModelError(f"{output} holds files that are no sharded model; name another directory")


def begin(output: Path, source: Path) -> None:
    """Remove the manifest of a directory, and the models that it names, but not `source`.

    Until another manifest is there the directory is incomplete, and says so.
    """
    if (output / NAME).is_file():
        models = {output / entry.model for entry in Manifest.read(output).ranks}
        (output / NAME).unlink()
        for path in models:
            if path.resolve() != source.resolve():
                path.unlink(missing_ok=True)


def _copy_data(models: Iterable[ModelProto], source: Path, folder: Path) -> None:
    for location in sorted(set[str]().union(*map(_locations, models))):
        there, here = source / location, folder / location
        if here.exists() and here.resolve() == there.resolve():
            continue
        if here.exists():
            raise ModelError(f"{here} exists, where data of {there} would go; name another folder")
        if not there.is_file():
            raise ModelError(f"the model's data lies in {there}, which does not exist")
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(there, here)


def _locations(model: ModelProto) -> set[str]:
    """Return the files that hold data of a model, relative to it."""
    return {
        ExternalDataInfo(tensor).location
        for tensor in _tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    }


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in every_node(model):
        yield from (entry.t for entry in node.attribute if entry.HasField("t"))
        for body in subgraphs(node):
            yield from body.initializer
