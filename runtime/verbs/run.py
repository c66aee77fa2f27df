"""The verb run: a model on ranks."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from .terms import add_asked, asked
from .verb import Verb

if TYPE_CHECKING:
    from ...collectives import Communicator


def add(parser: argparse.ArgumentParser) -> None:
    argument = parser.add_argument
    argument(
        "model", metavar="MODEL|DIR", help="an ONNX file, sharded on the fly, or a sharded DIR"
    )
    argument("-n", dest="ranks", type=int, metavar="RANKS", help="start mpirun with so many ranks")
    argument("--mesh", help="ranks by axis, as in tp=2,pp=2, or auto (default: tp, all ranks)")
    add_asked(parser)
    argument("--inputs", metavar="NPZ", help="arrays by input name (default: random ones)")
    argument("--outputs", metavar="NPZ", help="where the outputs go, those of rank 0")
    argument("--compare", action="store_true", help="run the unsharded model too, and compare")
    argument("--source", metavar="MODEL", help="the unsharded model, if it is not where it was")
    argument("--rtol", type=float, default=1e-3, help="relative tolerance (default %(default)s)")
    argument("--atol", type=float, default=1e-4, help="absolute tolerance (default %(default)s)")
    argument("--report", metavar="JSON", help="where times, bytes and memory by rank go")
    argument("--trace", metavar="JSON", help="where a trace of all ranks goes, for Perfetto")
    argument("--seed", type=int, default=0, help="of random inputs (default %(default)s)")
    argument("--threads", type=int, help="threads of each rank (default: its share of the cores)")
    argument(
        "--repeat", type=int, default=1, metavar="N", help="runs; times are those of the last"
    )
    argument(
        "--functions",
        choices=("native", "literal"),
        default="native",
        help="run functions that lower has made of collectives as operators (default), or as "
        "they are written",
    )


def run(options: argparse.Namespace, comm: Communicator) -> int:
    # Here, since it brings onnxruntime.
    from ..agreement import together
    from ..run import RunOptions
    from ..run import run as run_model

    comm.checked = True
    values = {field.name: getattr(options, field.name) for field in fields(RunOptions)}
    values["hints"], values["memory"] = together(comm, lambda: asked(options))
    return run_model(RunOptions(**values), comm)


VERB = Verb(
    "run a model on ranks, under mpirun or by itself with -n",
    "mpirun -n 4 rankwise run model.tp4 --inputs in.npz --outputs out.npz --compare",
    add,
    run,
    on_ranks=True,
)
