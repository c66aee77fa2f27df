"""The verb bench: how long collectives take."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from .verb import Verb

if TYPE_CHECKING:
    from ...collectives import Communicator


def add(parser: argparse.ArgumentParser) -> None:
    argument = parser.add_argument
    argument("collective", nargs="?", default="allreduce", help="such as %(default)s (default)")
    argument("-n", dest="ranks", type=int, metavar="RANKS", help="start mpirun with so many ranks")
    argument(
        "-b",
        "--minbytes",
        metavar="SIZE",
        default="8",
        help="smallest size, as in 64K (default %(default)s)",
    )
    argument(
        "-e",
        "--maxbytes",
        metavar="SIZE",
        default="64M",
        help="largest size (default %(default)s)",
    )
    argument(
        "-f", "--stepfactor", type=int, default=2, help="from size to size (default %(default)s)"
    )
    argument("--iters", type=int, default=20, help="timed calls of each (default %(default)s)")
    argument(
        "-w", "--warmup", type=int, default=3, help="calls before those (default %(default)s)"
    )
    argument("-c", "--check", type=int, choices=(0, 1), default=1, help="0: look at no result")
    argument("-d", "--datatype", default="float", help="float, half, bfloat16, int32, ...")
    argument("-o", "--op", default="sum", help="sum, prod, min or max (default %(default)s)")
    argument("-r", "--root", type=int, default=0, help="of a collective that has one")
    argument(
        "--algorithm", nargs="+", metavar="NAME", help="only these (default: all, auto and mpi)"
    )
    argument("--cluster", metavar="FILE", help="constants of the cost model, for the lower bound")
    argument("--csv", metavar="FILE", help="where the results go, one line for each")
    argument("--json", metavar="FILE", help="the same, with what was asked for and where it ran")
    argument(
        "--plot", metavar="FILE.png", help="latency and bus bandwidth over size, as a picture"
    )
    argument(
        "--tune",
        action="store_true",
        help="write the fastest algorithms by size where algorithm='auto' looks for them "
        "($RANKWISE_COLLECTIVES, or rankwise/collectives.json in the configuration folder)",
    )
    argument(
        "--fit",
        metavar="FILE",
        help="only fit the cost model to messages and allreduces of these sizes, and write its "
        "constants; compare its predictions with measurements",
    )


def bench(options: argparse.Namespace, comm: Communicator) -> int:
    from ..bench import BenchOptions
    from ..bench import bench as run_bench

    names = [field.name for field in fields(BenchOptions)]
    return run_bench(BenchOptions(**{name: getattr(options, name) for name in names}), comm)


VERB = Verb(
    "time of a collective by size: every algorithm, and MPI's own call, side by side",
    "mpirun -n 4 rankwise bench allreduce -b 8 -e 64M -f 2",
    add,
    bench,
    on_ranks=True,
)
