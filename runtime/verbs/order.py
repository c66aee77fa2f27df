"""The verb order: how a model states the order of its communication."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .verb import Verb

if TYPE_CHECKING:
    from onnx import ModelProto


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|DIR", help="an ONNX file, or a sharded DIR")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where it goes")
    how = parser.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("tokens", "each node waits for a token of the one before it"),
        ("annotation", "each node has a number, its attribute order"),
        ("plain", "nodes stand in the file in their order"),
    ):
        how.add_argument(f"--{name}", dest="how", action="store_const", const=name, help=text)


def order(options: argparse.Namespace) -> int:
    """Write a model or a directory with its order stated in one way."""
    from ...models.dialects.translation import translated
    from ...models.files import check_output, models_of, write_changed
    from ...models.plan import communicates
    from ...models.tokens import ordered

    check_output(options.model, options.output)
    models = {path: translated(model) for path, model in models_of(options.model).items()}
    if not any(map(communicates, models.values())):
        raise ValueError(f"expected a model that communicates, but {options.model} does not")
    if Path(options.model).is_dir():
        _check_ranks(list(models.values()))
    made = {path: ordered(model, options.how) for path, model in models.items()}
    write_changed(made, options.model, options.output)
    print(f"{options.output}  in an order stated by {options.how}")
    return 0


def _check_ranks(models: Sequence[ModelProto]) -> None:
    """Raise ModelError for ranks whose orders differ: stating them would not mend that."""
    from ...models.check import check
    from ...models.errors import ModelError
    from ...models.graph import mesh_of
    from ...models.plan import build_plan

    found = check([build_plan(model) for model in models], [mesh_of(model) for model in models])
    for finding in found.certain:
        if finding.kind in ("order", "deadlock"):
            raise ModelError(str(finding))


VERB = Verb(
    "state the order of communication by tokens, by numbers, or by the file alone",
    "rankwise order model.onnx -o ordered.onnx --tokens",
    add,
    order,
)
