"""The verb convert: models in another form, or in the operators of another system."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.dialects import DIALECTS
from .verb import Verb

if TYPE_CHECKING:
    from onnx import ModelProto

DIALECT_NAMES = ("rankwise", *DIALECTS)
FORMS = ("spmd", "explicit", "per-rank")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|DIR", help="an ONNX file, or a sharded DIR")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where it goes")
    parser.add_argument(
        "--to", choices=(*DIALECT_NAMES, *FORMS), required=True, metavar="FORM",
        help=f"whose operators it is to have: {', '.join(DIALECT_NAMES)}; or spmd: one model "
        "whose ranks ask who they are, explicit: one that takes rank and size as inputs, "
        "per-rank: a directory with a model for each",
    )  # fmt: skip
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="how many there will be, if the model does not say"
    )


def convert(options: argparse.Namespace) -> int:
    """Rewrite a model or a directory, and say what it is now."""
    from ...models.files import check_output, models_of, write_changed

    if options.ranks is not None and options.ranks < 1:
        raise ValueError(f"expected --ranks of at least 1, got {options.ranks}")
    if options.to == "per-rank":
        return _convert_to_ranks(options)
    check_output(options.model, options.output)
    models = models_of(options.model)
    _expect_communication(options.model, models)
    made = {path: _made(model, options.to, options.ranks) for path, model in models.items()}
    write_changed(made, options.model, options.output)
    print(f"{options.output}  {options.to}")
    return 0


def _made(model: ModelProto, form: str, ranks: int | None) -> ModelProto:
    from ...models.dialects.conversion import converted
    from ...models.dialects.translation import translated
    from ...models.representations import explicit, spmd

    if form == "spmd":
        return spmd(translated(model, ranks), ranks)
    if form == "explicit":
        return explicit(translated(model, ranks))
    return converted(model, form, ranks)


def _convert_to_ranks(options: argparse.Namespace) -> int:
    """Write a directory with a model for each rank, of one for all."""
    from ...models.dialects.annotations import is_annotated
    from ...models.dialects.ort_distributed import speaks
    from ...models.dialects.translation import translated
    from ...models.files import check_folder, write_ranks
    from ...models.graph import mesh_of, read
    from ...models.representations import per_rank

    source, output = Path(options.model), Path(options.output)
    if source.is_dir():
        raise ValueError(f"expected one model for all ranks, but {source} is a directory")
    check_folder(output)
    model, _ = read(source)
    if is_annotated(model):
        ranks = _lowered(source, output, options.ranks)
        write_ranks(ranks, source, output, mesh_of(ranks[0]), data=output)
    else:
        if not speaks(model):
            _expect_communication(options.model, {source: model})
        ranks = per_rank(translated(model, options.ranks), options.ranks)
        write_ranks(ranks, source, output, mesh_of(ranks[0]))
    print(f"{output}  per-rank, {len(ranks)} of them")
    return 0


def _lowered(source: Path, output: Path, ranks: int | None) -> list[ModelProto]:
    """Write the graphs of the ranks of an annotated model; return them."""
    from ...models.dialects.annotations import lower_rank
    from ...models.files import begin
    from ...models.graph import read
    from ...models.plan import sealed

    ranks = _expect_ranks(ranks)
    output.mkdir(parents=True, exist_ok=True)
    begin(output, source)
    made = [lower_rank(source, rank, ranks, output) for rank in range(ranks)]
    return [sealed(read(path)[0]) for path in made]


def _expect_ranks(ranks: int | None) -> int:
    if ranks is None:
        raise ValueError(
            "expected --ranks N, the number of ranks, which a model may be made for several of"
        )
    return ranks


def _expect_communication(name: str, models: Mapping[Path, ModelProto]) -> None:
    from ...models.dialects.ort_distributed import speaks
    from ...models.plan import communicates

    if any(map(speaks, models.values())):
        raise ValueError(
            f"{name} has Distributed operators, of which each rank does another part; "
            "convert it --to per-rank"
        )
    if not any(map(communicates, models.values())):
        raise ValueError(f"expected a model that communicates, but {name} does not")


VERB = Verb(
    "rewrite a model that communicates in another form, or in another system's operators",
    "rankwise convert model.onnx -o theirs.onnx --to ort",
    add,
    convert,
)
