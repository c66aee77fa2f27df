"""What happens when a rank fails: one message, one exit code, and no rank that waits for ever.

Two kinds of failure. One that all ranks have agreed on (see agreement.py), bad input above all:
rank 0 says it, and all leave with the code. And one in the midst of things, on some ranks only,
while others may wait inside a collective: an exception, an exception in a thread, a sys.exit of
whatever code. Then the first rank of a node that comes to speak says it and aborts all.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import numpy as np

from ..collectives import CollectiveError, Communicator, RankFailure
from ..models.errors import NothingToShard
from .agreement import EXPECTED, Agreement
from .interrupt import INTERRUPTED

LAST_WORDS_S = 5.0
"""how long a rank that has lost the word waits to be ended by the one that has it, or had it"""

HELD_S = 0.3
"""how long the speaker holds the word before it aborts: its end would free the word for ranks that
fail of the same cause, and have come as far while the first spoke; and MPICH's mpiexec drops, now
and then, the last lines of a rank that aborts at once"""


class Failure(NamedTuple):
    """How a program ends."""

    code: int
    text: str


def explain(error: BaseException, *, is_input: bool) -> Failure:
    """Say what an error means to the user.

    `is_input` says that an error of EXPECTED is about what the user gave, and not a bug of ours.
    """
    if isinstance(error, KeyboardInterrupt):
        return Failure(INTERRUPTED, "")
    if isinstance(error, NothingToShard):
        return Failure(1, line(error))
    if isinstance(error, EXPECTED) and is_input:
        return Failure(2, line(error))
    if isinstance(error, CollectiveError | OSError | MemoryError) or is_reported(error):
        return Failure(1, line(error))
    return Failure(1, "".join(traceback.format_exception(error)))


def is_reported(error: BaseException) -> bool:
    """Say whether an error already says rank, node and shapes, and needs no traceback."""
    # Not imported: NodeError comes with onnxruntime, which most verbs do without.
    return type(error).__name__ == "NodeError"


def line(error: BaseException) -> str:
    """Return an error as one line of ours."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror.lower() + (f": {error.filename}" if error.filename else "")
    return f"rankwise: {' '.join(text.split()) or type(error).__name__}\n"


def say(text: str) -> None:
    """Write to stderr at once."""
    sys.stderr.write(text)
    sys.stderr.flush()


def alone(function: Callable[[], int]) -> int:
    """Call a program of one process; return its exit code, and say what is wrong."""
    # As an exception, so that what is half made is removed.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return function()
    except BrokenPipeError:
        # Whoever read the output has seen enough; a flush at the end would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        failure = explain(error, is_input=True)
    except KeyboardInterrupt as error:
        failure = explain(error, is_input=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    say(failure.text)
    return failure.code


def guarded(comm: Communicator, function: Callable[[], int]) -> int:
    """Call a program of several ranks; return its exit code, the same on all.

    Where a rank fails on its own this does not return: it ends all ranks.
    """
    token = secrets.token_bytes(8) if comm.rank == 0 else bytes(8)
    token = comm.broadcast(np.frombuffer(token, np.uint8)).tobytes()

    def fail(error: BaseException) -> NoReturn:
        if isinstance(error, RankFailure) or isinstance(error.__cause__, RankFailure):
            # The rank that ended has said why, or was killed: then the launcher ends this one too.
            time.sleep(LAST_WORDS_S)
        _end(comm, _in_the_midst(comm.rank, error), token)

    def fail_in_thread(args: threading.ExceptHookArgs) -> None:
        fail(args.exc_value or SystemExit(0))

    before, threading.excepthook = threading.excepthook, fail_in_thread
    try:
        return function()
    except BaseException as error:
        if not isinstance(error.__cause__, Agreement):
            fail(error)
        failure = explain(error, is_input=True)
    finally:
        threading.excepthook = before
    if comm.rank == 0:
        say(failure.text)
    # A launcher ends the others as soon as one leaves with a code: not before rank 0 has spoken.
    comm.barrier()
    return failure.code


def _in_the_midst(rank: int, error: BaseException) -> Failure:
    if not isinstance(error, SystemExit):
        code, text = explain(error, is_input=False)
        if text.startswith("rankwise: ") and f"rank {rank}" not in text:
            text = text.replace("rankwise: ", f"rankwise: rank {rank}: ", 1)
        return Failure(code, text)
    # Leaving with 0 while others wait is no success either.
    code = error.code if isinstance(error.code, int) and error.code else 1
    return Failure(code, f"rankwise: rank {rank} left with sys.exit({error.code!r})\n")


def _end(comm: Communicator, failure: Failure, token: bytes) -> NoReturn:
    """Say why, if no other rank of the node has, and end all ranks."""
    word = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A name without a file (Linux): it goes when its process does, however that ends.
        word.bind(b"\0rankwise-" + token.hex().encode())
    except OSError:
        time.sleep(LAST_WORDS_S)
    else:
        sys.stdout.flush()
        say(failure.text)
        time.sleep(HELD_S)
        comm.abort(failure.code)
    os._exit(failure.code)
