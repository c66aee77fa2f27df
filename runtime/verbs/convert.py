"""The verb convert: models in the communication operators of another system."""

from __future__ import annotations

import argparse

from ...models.dialects import DIALECTS
from .verb import Verb

OURS = "rankwise"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|DIR", help="an ONNX file, or a sharded DIR")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where it goes")
    parser.add_argument(
        "--to", choices=(OURS, *DIALECTS), required=True, metavar="DIALECT",
        help=f"whose operators it is to have: {', '.join((OURS, *DIALECTS))}",
    )  # fmt: skip
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="how many there will be, if the model does not say"
    )


def convert(options: argparse.Namespace) -> int:
    """Rewrite a model or a directory, and say what has become of its operators."""
    from ...models.dialects.conversion import converted
    from ...models.files import check_output, models_of, write_changed
    from ...models.plan import communicates

    if options.ranks is not None and options.ranks < 1:
        raise ValueError(f"expected --ranks of at least 1, got {options.ranks}")
    check_output(options.model, options.output)
    models = models_of(options.model)
    if not any(map(communicates, models.values())):
        raise ValueError(f"expected a model that communicates, but {options.model} does not")
    made = {path: converted(model, options.to, options.ranks) for path, model in models.items()}
    write_changed(made, options.model, options.output)
    print(f"{options.output}  in the operators of {options.to}")
    return 0


VERB = Verb(
    "rewrite communication in another system's operators, or theirs in ours",
    "rankwise convert model.onnx -o theirs.onnx --to ort",
    add,
    convert,
)
