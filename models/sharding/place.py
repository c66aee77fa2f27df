"""A directory that appears at its place complete, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK = "lock"
"""A file that whoever writes a directory keeps locked: one that is not was left behind."""


@contextmanager
def placed(place: Path) -> Iterator[Path]:
    """Give a directory to write beside a place, and move it there in the end.

    What is at the place is replaced. Directories that were left beside it, by processes that were
    killed, are removed.
    """
    parent = place.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=parent))
    try:
        with _locked(beside):
            _clear(parent, f".{place.name}.")
            yield beside
            (beside / LOCK).unlink(missing_ok=True)
            # mkdtemp makes a directory for its owner alone; this one is as open as any.
            beside.chmod(0o777 & ~_umask())
            if place.is_dir():
                shutil.rmtree(place)
            beside.replace(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _locked(directory: Path) -> BinaryIO:
    """Lock a directory until the file is closed, or its process ends."""
    unseen = directory / f"{LOCK}.new"
    file = unseen.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        unseen.rename(directory / LOCK)  # only now, so that no one finds it unlocked
    except OSError:  # some cluster file systems have no locks: what has none is left alone
        unseen.unlink()
    return file


def _clear(parent: Path, prefix: str) -> None:
    """Remove the directories of this prefix that nobody writes any more."""
    for found in parent.iterdir():
        if found.name.startswith(prefix):
            with suppress(OSError), (found / LOCK).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(found, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
