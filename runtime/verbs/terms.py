"""Arguments of several verbs: what a sharding is chosen for."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...collectives.cluster import Cluster

if TYPE_CHECKING:
    from ...models.sharding.hints import Hint
    from ...models.sharding.search import Terms


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Add what a choice is made for."""
    add_asked(parser)
    parser.add_argument(
        "--cluster", metavar="FILE", help="what collectives cost, as bench --fit has measured it"
    )


def add_asked(parser: argparse.ArgumentParser) -> None:
    """Add what a person asks of a choice."""
    parser.add_argument(
        "--hints",
        metavar="FILE.yaml",
        help="names of tensors or nodes, and whether they are whole or which dim is cut",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE[,SIZE...]",
        help="of weights on a rank at most, as in 2GB, or of those of each stage (default: little "
        "more than an even share)",
    )
    parser.add_argument(
        "--batch-dim",
        metavar="DIM|NAME=DIM,...",
        help="the dim of all inputs, or of some, that replicas split (default: what is found)",
    )


def terms(options: argparse.Namespace) -> Terms:
    """Return what a choice is made for. Raises OSError, ValueError."""
    from ...models.sharding.machine import HERE
    from ...models.sharding.search import Terms

    machine = HERE
    if options.cluster is not None:
        machine = replace(HERE, cluster=Cluster.read(Path(options.cluster)))
    hints, memory = asked(options)
    return Terms(machine, memory, hints, options.batch_dim)


def asked(options: argparse.Namespace) -> tuple[tuple[Hint, ...], int | tuple[int, ...] | None]:
    """Return hints, and the memory of a rank or of each stage's. Raises OSError, ValueError."""
    from ...models.sharding.hints import read_hints

    hints = () if options.hints is None else read_hints(options.hints)
    if options.memory is None:
        return hints, None
    sizes = tuple(map(size_in_bytes, options.memory.split(",")))
    return hints, sizes if len(sizes) > 1 else sizes[0]


def size_in_bytes(text: str) -> int:
    """Read a number of bytes, as in 512MB, 2GB or 1.5GiB. Raises ValueError."""
    found = re.fullmatch(r"(\d+\.?\d*)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"expected a number of bytes such as 512MB or 2GiB, got {text!r}")
    number, prefix, binary = found.groups()
    power = " KMGT".index(prefix.upper() or " ")
    return round(float(number) * math.pow(1024 if binary else 1000, power))
