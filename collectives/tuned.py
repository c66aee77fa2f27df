"""The user's own selection table: which algorithm was the fastest here, by size.

`rankwise bench --tune` writes it, `algorithm="auto"` asks it before its own thresholds. A case is
one collective at one number of ranks, for one kind of dtype and one placement; its steps say from
how many bytes on which algorithm is taken. Whoever asks must see to two things: all ranks must ask
the same table (one of them reads it for all), and the algorithm must fit the operation, since no
case knows whether the order of operands matters. To delete the file is safe.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .origin import Origin
from .table import TABLE, lookup

FORMAT = 1
KINDS = "biufcV"  # the letters of numpy's kinds of numbers; ml_dtypes' bfloat16 has V
PLACEMENTS = ("node", "nodes")  # all ranks on one node, or on several

Step = tuple[int, str]  # (from how many bytes, the algorithm)


@dataclass(frozen=True)
class Case:
    """The steps of one collective at one number of ranks."""

    collective: str
    ranks: int
    dtype: str
    """a letter of KINDS, or "any" """
    placement: str
    """one of PLACEMENTS"""
    steps: tuple[Step, ...]
    """as in ((0, "one_shot"), (65536, "two_shot")), sizes rising"""
    origin: Origin

    def __post_init__(self) -> None:
        if self.collective not in TABLE:
            raise ValueError(
                f"expected a collective of {', '.join(TABLE)}, got {self.collective!r}"
            )
        if not is_count(self.ranks) or self.ranks < 1:
            raise ValueError(f"expected ranks of at least 1, got {self.ranks!r}")
        if self.dtype not in (*KINDS, "any"):
            raise ValueError(f"expected dtype to be any or one of {KINDS}, got {self.dtype!r}")
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f"expected a placement of {', '.join(PLACEMENTS)}, got {self.placement!r}"
            )
        sizes = [size for size, _ in self.steps]
        if not sizes or not all(map(is_count, sizes)) or sizes[0] < 0:
            raise ValueError(f"expected steps from numbers of bytes, got {list(self.steps)!r}")
        if any(b <= a for a, b in itertools.pairwise(sizes)):
            raise ValueError(f"expected steps whose sizes rise, got {sizes}")
        for _, name in self.steps:
            if name != "mpi":
                lookup(self.collective, name)

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What a table has one case of."""
        return self.collective, self.ranks, self.dtype, self.placement

    def at(self, nbytes: int) -> str | None:
        """The algorithm for a size; None below the smallest that was measured."""
        reached = [name for size, name in self.steps if size <= nbytes]
        return reached[-1] if reached else None

    def as_json(self) -> dict[str, Any]:
        steps = [{"from_bytes": size, "algorithm": name} for size, name in self.steps]
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "steps": steps, "origin": asdict(self.origin)}

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> Case:
        """Raises ValueError, TypeError or KeyError."""
        steps = tuple((step["from_bytes"], step["algorithm"]) for step in given["steps"])
        return cls(**{**given, "steps": steps, "origin": Origin(**given["origin"])})


@dataclass(frozen=True)
class Tuned:
    """A selection table: cases with different keys."""

    cases: tuple[Case, ...] = ()

    def __post_init__(self) -> None:
        keys = [case.key for case in self.cases]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"expected one case for each of its kind, got two of {twice[0]}")

    def find(
        self, collective: str, nbytes: int, ranks: int, dtype: np.dtype[Any], placement: str
    ) -> str | None:
        """The algorithm, or None where nothing was measured; a case of "any" dtype comes last."""
        for kind in (dtype.kind, "any"):
            for case in self.cases:
                if case.key == (collective, ranks, kind, placement):
                    return case.at(nbytes)
        return None

    def with_case(self, new: Case) -> Tuned:
        """This table with a case added, or put in the place of the one with its key."""
        kept = [case for case in self.cases if case.key != new.key]
        return Tuned(tuple(sorted((*kept, new), key=lambda case: case.key)))

    def text(self) -> str:
        """The table as JSON, which `parse` reads."""
        cases = [case.as_json() for case in self.cases]
        return json.dumps({"format": FORMAT, "cases": cases}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> Tuned:
        """Raises ValueError that says what is wrong."""
        try:
            given = json.loads(text)
            if given["format"] != FORMAT:
                raise ValueError(f"expected format {FORMAT}, got {given['format']!r}")
            return cls(tuple(map(Case.of_json, given["cases"])))
        except KeyError as error:
            raise ValueError(f"expected {error.args[0]!r}, which is missing") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"expected other contents: {error}") from None

    @classmethod
    def read(cls, path: Path) -> Tuned | None:
        """The table in a file; None without one, and with a warning where it is broken."""
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            warnings.warn(
                f"{path} is ignored: {error}; delete it, and make it anew with rankwise bench "
                "--tune",
                stacklevel=2,
            )
            return None

    def write(self, path: Path) -> None:
        """Write it, and its folder if that is missing; readers see the old file or the new."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(self.text(), encoding="utf-8")
        partial.replace(path)


def is_count(value: object) -> bool:
    """Whether JSON held a whole number; to Python true is one, too."""
    return isinstance(value, int) and not isinstance(value, bool)


def user_file() -> Path | None:
    """The path of this user's table: RANKWISE_COLLECTIVES, or below the configuration folder.

    None where RANKWISE_COLLECTIVES is empty: no table is wanted.
    """
    chosen = os.environ.get("RANKWISE_COLLECTIVES")
    if chosen is not None:
        return Path(chosen) if chosen else None
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder) / "rankwise" / "collectives.json"
