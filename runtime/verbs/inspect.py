"""The verb inspect: what a model is made of, or what a sharded directory holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.manifest import Manifest
from .show import contents, show
from .terms import add_terms, terms
from .verb import Verb

if TYPE_CHECKING:
    from ...models.communications import Communications
    from ...models.sharding.report import Description


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|DIR", help="an ONNX file, or what shard has made")
    parser.add_argument("--mesh", default="tp=2", help="whose choice is shown (default: tp=2)")
    add_terms(parser)
    parser.add_argument("--json", action="store_true", help="all of it, for programs to read")


def inspect(options: argparse.Namespace) -> int:
    """Print what a model is made of, or what a sharded directory holds."""
    if Path(options.model).is_dir():
        manifest = Manifest.read(options.model)
        show(manifest, contents(options.model, manifest), options.json)
    else:
        found = _described(options)
        show(found, str(found), options.json)
    return 0


def _described(options: argparse.Namespace) -> Communications | Description:
    """Return what a model communicates or, where it does not, what of it can be sharded."""
    from ...models.communications import communications
    from ...models.dialects import ort_distributed
    from ...models.graph import read
    from ...models.plan import communicates
    from ...models.sharding import describe

    model, _ = read(options.model)
    if communicates(model) or ort_distributed.speaks(model):
        return communications(model)
    return describe(options.model, options.mesh, terms(options))


VERB = Verb(
    "what a model is made of and what can be sharded or is communicated, or what a DIR holds",
    "rankwise inspect model.onnx",
    add,
    inspect,
)
