"""The verb lower: collectives as functions over Send and Recv."""

from __future__ import annotations

import argparse

from .verb import Verb


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|DIR", help="an ONNX file, or a sharded DIR")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where it goes")
    parser.add_argument(
        "--collective",
        action="append",
        required=True,
        metavar="OP=ALGORITHM",
        help="such as AllReduce=ring; may be given several times",
    )
    parser.add_argument(
        "-n", dest="ranks", type=int, metavar="RANKS",
        help="make a DIR of a MODEL, with a function of its own for each rank; AllReduce=ring "
        "needs none",
    )  # fmt: skip


def lower(options: argparse.Namespace) -> int:
    """Make collectives of a model functions, and say how many."""
    from ...models.functions.files import lower_files

    chosen = dict(_pair(text) for text in options.collective)
    if options.ranks is not None and options.ranks < 1:
        raise ValueError(f"expected -n of at least 1, got {options.ranks}")
    found = lower_files(options.model, options.output, chosen, options.ranks)
    said = ", ".join(f"{count} {name} by {chosen[name]}" for name, count in found.items())
    print(f"{options.output}  {said}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    op_type, equals, algorithm = text.partition("=")
    if not (op_type and equals and algorithm):
        raise ValueError(f"expected --collective OP=ALGORITHM, as in AllReduce=ring, got {text!r}")
    return op_type, algorithm


VERB = Verb(
    "make collectives functions over Send and Recv, by the algorithm that is asked for",
    "rankwise lower model.onnx -o lowered.onnx --collective AllReduce=ring",
    add,
    lower,
)
