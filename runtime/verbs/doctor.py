"""The verb doctor: what is wrong here."""

from __future__ import annotations

import argparse

from .verb import Verb


def doctor(_: argparse.Namespace) -> int:
    """Look at this machine, and say what mends it."""
    from ..doctor import doctor as examine

    return examine()


VERB = Verb(
    "what is wrong with MPI, threads or memory here, and what mends it",
    "rankwise doctor",
    lambda parser: None,
    doctor,
)
