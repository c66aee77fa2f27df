"""Ctrl-C: it ends the command line without a word, however early it comes.

Most of a short command is imports. A KeyboardInterrupt in the midst of one would be printed, or
turned into an ImportError by a library that is written in C.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""the exit code after Ctrl-C, as shells have it"""


def leave(_number: int, _frame: FrameType | None) -> None:
    """End this process at once: a handler for while there is nothing to clean up."""
    os._exit(INTERRUPTED)


def leaves() -> None:
    """Let Ctrl-C end this process at once, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, where it would leave."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
