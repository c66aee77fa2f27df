"""Write a model to a file: python -m rankwise.models.zoo bert|cnn|mlp ... -o MODEL."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import onnx
from onnx import ModelProto

from . import bert, cnn, mlp
from .layers import ACTIVATIONS


class Parser(argparse.ArgumentParser):
    """Say what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m rankwise.models.zoo", description="Write a model as ONNX.")
    verbs = parser.add_subparsers(dest="model", required=True, metavar="bert|cnn|mlp")
    of_bert = verbs.add_parser("bert", help="a BERT checkpoint as an encoder of sentences")
    of_bert.add_argument("directory", help="the folder of config.json and model.safetensors")
    of_cnn = verbs.add_parser("cnn", help="four convolutions of 128 filters, weights drawn")
    of_cnn.add_argument("--dtype", choices=cnn.DTYPES, default="float32")
    of_mlp = verbs.add_parser("mlp", help="a multilayer perceptron, weights drawn")
    of_mlp.add_argument("--widths", type=widths, default=(64, 256, 64), metavar="64,256,64")
    of_mlp.add_argument("--activation", choices=ACTIVATIONS, default="relu")
    of_mlp.add_argument("--product", choices=mlp.LAYERS, default="MatMul")
    for verb in (of_cnn, of_mlp):
        verb.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    for verb in (of_bert, of_cnn, of_mlp):
        verb.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL")
    return parser.parse_args(arguments)


def widths(text: str) -> tuple[int, ...]:
    """Read 64,256,64."""
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        message = f"expected widths as in 64,256,64, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def build(options: argparse.Namespace) -> ModelProto:
    if options.model == "bert":
        return bert.from_checkpoint(options.directory)
    if options.model == "cnn":
        return cnn.build(options.dtype, seed=options.seed)
    return mlp.build(
        options.widths,
        activation=options.activation,
        product=options.product,
        seed=options.seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        onnx.save(build(options), options.output)
    except (ImportError, OSError, ValueError) as error:
        print(f"rankwise.models.zoo: {error}", file=sys.stderr)
        return 2
    return 0


sys.exit(main())
