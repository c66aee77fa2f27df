"""What the command line asks of bench."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...collectives.table import SPECIAL, TABLE, lookup

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DTYPES: dict[str, type[Any]] = {
    "float": np.float32,
    "double": np.float64,
    "half": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
}
"""By the names of nccl-tests."""

OPS: dict[str, np.ufunc] = {
    "sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum
}  # fmt: skip

PICTURES = (".png", ".pdf", ".svg")

FEWEST_CALLS = 8
"""Of which two halves can say how much calls differ (tuning.py)."""


@dataclass(frozen=True)
class BenchOptions:
    """The arguments, as they were given."""

    collective: str = "allreduce"
    ranks: int | None = None
    minbytes: str = "8"
    maxbytes: str = "64M"
    stepfactor: int = 2
    iters: int = 20
    warmup: int = 3
    check: int = 1
    datatype: str = "float"
    op: str = "sum"
    root: int = 0
    algorithm: tuple[str, ...] | None = None
    cluster: str | None = None
    csv: str | None = None
    json: str | None = None
    plot: str | None = None
    tune: bool = False
    fit: str | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.datatype])

    @property
    def names(self) -> list[str]:
        """The algorithms to measure."""
        return list(self.algorithm or (*TABLE[self.collective], *SPECIAL))

    @property
    def sizes(self) -> list[int]:
        """In bytes, rising, of whole elements."""
        low, high = parse_bytes(self.minbytes), parse_bytes(self.maxbytes)
        if not 0 < low <= high:
            raise ValueError(
                f"expected -b of at least 1 and -e of at least -b, got {low} and {high}"
            )
        item = self.dtype.itemsize
        sizes = _multiplied(low, high, self.stepfactor)
        return sorted({max(1, nbytes // item) * item for nbytes in sizes})

    def check_for(self, ranks: int) -> None:
        """Raise ValueError for what makes no sense on so many ranks."""
        if self.ranks is not None and self.ranks != ranks:
            raise ValueError(f"mpirun has started {ranks} ranks, but -n is {self.ranks}")
        if self.collective == "barrier" or self.collective not in TABLE:
            known = ", ".join(name for name in TABLE if name != "barrier")
            raise ValueError(f"expected a collective of {known}, got {self.collective!r}")
        if not 0 <= self.root < ranks:
            raise ValueError(f"expected --root from 0 to {ranks - 1}, got {self.root}")
        self._check_numbers()
        for name in self.algorithm or ():
            if name not in SPECIAL:
                lookup(self.collective, name)
        if (self.tune or self.fit) and ranks < 2:
            raise ValueError("expected ranks to tune or to fit for, got one; start more with -n")
        if self.tune and self.iters < FEWEST_CALLS:
            raise ValueError(
                f"expected --iters of at least {FEWEST_CALLS} to tune with, got {self.iters}"
            )
        if self.tune and not set(self.names) - {"auto"}:
            raise ValueError("expected algorithms to tune with, got auto alone")
        beside = ("algorithm", "cluster", "csv", "json", "plot", "tune")
        if self.fit and any(getattr(self, name) for name in beside):
            unused = ", ".join(f"--{name}" for name in beside if getattr(self, name))
            raise ValueError(f"--fit does nothing else; leave {unused} out")

    def _check_numbers(self) -> None:
        for name, least in (("stepfactor", 2), ("iters", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"expected --{name} of at least {least}, got {getattr(self, name)}"
                )
        for name, choices in (("datatype", list(DTYPES)), ("op", list(OPS))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"expected --{name} of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        assert self.sizes

    def check_files(self) -> None:
        """Raise ValueError for what would stop results from being written, on rank 0."""
        for name in ("csv", "json", "plot", "fit"):
            path = getattr(self, name)
            if path is not None and (not Path(path).parent.is_dir() or Path(path).is_dir()):
                raise ValueError(
                    f"expected --{name} to be a file in a folder that exists, got {path}"
                )
        if self.plot is None:
            return
        if Path(self.plot).suffix not in PICTURES:
            raise ValueError(f"expected --plot of {', '.join(PICTURES)}, got {self.plot}")
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError(
                "expected matplotlib, which draws what --plot asks for, found none; "
                "pip install rankwise[plot]"
            )


def parse_bytes(text: str) -> int:
    """Read a number of bytes such as 8, 64K, 1M. Raises ValueError.

    >>> parse_bytes("64K")
    65536
    """
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not digits.isdecimal() or unit not in ("", *UNITS):
        raise ValueError(f"expected a number of bytes such as 8, 64K or 1M, got {text!r}")
    return int(digits) * UNITS.get(unit, 1)


def _multiplied(low: int, high: int, factor: int) -> Iterator[int]:
    while low <= high:
        yield low
        low *= factor
