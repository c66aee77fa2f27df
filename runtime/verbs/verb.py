"""What a verb of the command line is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple


class Verb(NamedTuple):
    """One verb: what it does, an example, its arguments, and what carries it out."""

    summary: str
    example: str
    add: Callable[[argparse.ArgumentParser], object]
    carry_out: Callable[..., int]
    """takes the options, and a Communicator where ranks do it together; returns the exit code"""
    on_ranks: bool = False
    """whether all ranks carry it out together; `options.ranks` is how many to start"""
