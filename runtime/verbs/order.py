"""The verb order: how a model states the order of its communication."""

from __future__ import annotations

import argparse

from .verb import Verb


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
    made = {path: ordered(model, options.how) for path, model in models.items()}
    write_changed(made, options.model, options.output)
    print(f"{options.output}  in an order stated by {options.how}")
    return 0


VERB = Verb(
    "state the order of communication by tokens, by numbers, or by the file alone",
    "rankwise order model.onnx -o ordered.onnx --tokens",
    add,
    order,
)
