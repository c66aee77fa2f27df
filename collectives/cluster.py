"""The cluster file: what a message costs on one machine or network, as it was measured."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cost import lower_bound, seconds
from .origin import Origin
from .schedule import Algorithm

FORMAT = 1


@dataclass(frozen=True)
class Cluster:
    """The constants of the alpha-beta-gamma model (cost.py), and what a call costs beside them."""

    alpha: float
    """seconds for a round with a message to start"""
    beta: float
    """seconds for a byte to move"""
    gamma: float
    """seconds for a byte to be reduced"""
    overhead: float
    """seconds that a call takes before its first round and after its last"""
    ranks: int
    """with which this was measured: more of them share the same cores and memory"""
    origin: Origin

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma", "overhead"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"expected {name} in seconds, at least 0, got {value!r}")
        if not isinstance(self.ranks, int) or self.ranks < 2:
            raise ValueError(f"expected ranks of at least 2, got {self.ranks!r}")

    def seconds(
        self,
        algorithm: Algorithm,
        size: int,
        nbytes: float,
        root: int | None = None,
        **options: Any,
    ) -> float:
        """The predicted time of one call."""
        return self.overhead + seconds(
            algorithm,
            size,
            nbytes,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            root=root,
            **options,
        )

    def lower_bound(self, collective: str, size: int, nbytes: float) -> float:
        """The time that no algorithm over messages comes below."""
        return lower_bound(
            collective, size, nbytes, alpha=self.alpha, beta=self.beta, gamma=self.gamma
        )

    @classmethod
    def read(cls, path: Path) -> Cluster:
        """Raises OSError, and ValueError that names the file and says what to do."""
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            if given.pop("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT}")
            return cls(**{**given, "origin": Origin(**given["origin"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no cluster file: {error}; make one with rankwise bench --fit FILE"
            ) from None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")
