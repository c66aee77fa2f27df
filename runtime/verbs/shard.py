"""The verb shard: a model cut into parts, one for each rank."""

from __future__ import annotations

import argparse

from .progress import progress
from .show import contents, show
from .terms import add_terms, terms
from .verb import Verb


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    parser.add_argument("-o", "--output", metavar="DIR", help="where the parts go")
    parser.add_argument(
        "--mesh", required=True, help="ranks by axis, as in tp=2,pp=2, or auto with -n"
    )
    parser.add_argument(
        "-n", "--ranks", type=int, metavar="RANKS", help="how many there are: auto takes a mesh"
    )
    parser.add_argument(
        "--representation",
        choices=("per-rank", "spmd", "annotated"),
        default="per-rank",
        help="a graph and weights for each rank (default), the whole for ranks to cut as they "
        "load, or that with device configurations",
    )
    add_terms(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: show bytes, multiply-adds and communication of each rank",
    )
    parser.add_argument("--json", action="store_true", help="what is said, for programs to read")


def shard(options: argparse.Namespace) -> int:
    """Shard a model into a directory, or say what that would do."""
    from ...models import sharding

    wanted = terms(options)
    if options.dry_run:
        from ...models.graph import load

        plan = sharding.plan(load(options.model), options.mesh, wanted, options.ranks)
        found = sharding.preview(plan)
        show(found, str(found), options.json)
        return 0
    if options.output is None:
        raise ValueError("expected -o DIR, where the sharded model goes, or --dry-run")
    with progress("sharding") as report:
        manifest = sharding.shard(
            options.model,
            options.output,
            options.mesh,
            representation=options.representation,
            hints=wanted.hints,
            memory=wanted.memory,
            batch_dim=wanted.batch_dim,
            machine=wanted.machine,
            ranks=options.ranks,
            progress=report,
        )
    show(manifest, contents(options.output, manifest), options.json)
    return 0


VERB = Verb(
    "cut a model into parts, one for each rank",
    "rankwise shard model.onnx -o model.tp4 --mesh tp=4",
    add,
    shard,
)
