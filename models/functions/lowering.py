"""Which part in which collective a function is, and how its blocks are cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from onnx import FunctionProto

from ...collectives.schedule import Blocks, Round, rounds, schedule
from ...collectives.specs import SPECS
from ...collectives.table import TABLE, lookup

KEY = "rankwise.collective"
"""Metadata of a function that says which collective it is."""

COLLECTIVES = {
    "AllReduce": "allreduce", "AllGather": "allgather", "ReduceScatter": "reduce_scatter",
    "AllToAll": "alltoall", "Broadcast": "broadcast", "Scatter": "scatter", "Gather": "gather",
    "Reduce": "reduce", "Barrier": "barrier",
}  # fmt: skip
"""By operator, the name in collectives/table.py."""

OPERATORS = {
    "sum": "Add", "prod": "Mul", "min": "Min", "max": "Max", "mean": "Add",
    "band": "BitwiseAnd", "bor": "BitwiseOr", "bxor": "BitwiseXor",
    "land": "And", "lor": "Or", "lxor": "Xor",
}  # fmt: skip

FLAT = ("AllReduce", "Reduce", "Broadcast")
"""Their blocks are parts of all elements, of no dim in particular."""

SEGMENTS = 2
"""Of each block, for algorithms that cut blocks."""


def check_algorithm(op_type: str, algorithm: str) -> None:
    """Raise ValueError for an operator or an algorithm that is unknown, or not of messages."""
    if op_type not in COLLECTIVES:
        raise ValueError(f"expected collectives of {', '.join(COLLECTIVES)}, got {op_type!r}")
    entries = TABLE[COLLECTIVES[op_type]]
    known = ", ".join(name for name, entry in entries.items() if not entry.shared)
    if algorithm not in entries:
        raise ValueError(f"expected an algorithm of {op_type} ({known}), got {algorithm!r}")
    if entries[algorithm].shared:
        raise ValueError(
            f"{op_type} by {algorithm!r} reads the memory of other ranks, which Send and Recv "
            f"cannot say; take one of {known}"
        )


@dataclass(frozen=True)
class Lowering:
    """One rank's part in one collective, by one algorithm."""

    op_type: str
    algorithm: str
    rank: int
    size: int
    op: str | None = None
    root: int | None = None

    def __post_init__(self) -> None:
        check_algorithm(self.op_type, self.algorithm)
        if self.op is not None and self.op not in OPERATORS:
            raise ValueError(f"expected a reduction of {', '.join(OPERATORS)}, got {self.op!r}")
        spec = SPECS[COLLECTIVES[self.op_type]]
        if spec.reduces != (self.op is not None) or spec.rooted != (self.root is not None):
            raise ValueError(f"expected op and root as {self.op_type} has them, got {self}")
        for name, number in (("rank", self.rank), ("root", self.root or 0)):
            if not 0 <= number < self.size:
                raise ValueError(f"expected a {name} below {self.size}, got {number}")

    @property
    def name(self) -> str:
        """The name of its function."""
        root = None if self.root is None else f"from{self.root}"
        if self.op_type in ("Reduce", "Gather"):
            root = f"to{self.root}"
        parts = (self.op_type, self.algorithm, self.op, root, f"{self.rank}of{self.size}")
        return "_".join(filter(None, parts))

    @classmethod
    def of(cls, function: FunctionProto) -> Lowering | None:
        """Read what a function says that it is; None where it says nothing, or nonsense."""
        metadata = {entry.key: entry.value for entry in function.metadata_props}
        try:
            return cls(**json.loads(metadata[KEY]))
        except (KeyError, TypeError, ValueError):
            return None

    def rounds(self) -> tuple[Round, ...]:
        """Return the rounds of this rank."""
        entry = lookup(COLLECTIVES[self.op_type], self.algorithm)
        return rounds(entry.algorithm, self.rank, self.size, self.root, **self.options)

    @property
    def options(self) -> dict[str, int | tuple[int, ...]]:
        """What the algorithm takes beside rank, size and root: all ranks are on one node."""
        takes = lookup(COLLECTIVES[self.op_type], self.algorithm).takes
        given: dict[str, int | tuple[int, ...]] = {
            "segments": SEGMENTS,
            "nodes": (0,) * self.size,
        }
        return {name: given[name] for name in takes}

    @property
    def segments(self) -> int:
        return SEGMENTS if "segments" in self.options else 1

    @property
    def count(self) -> int:
        """How many blocks there are, spare ones apart."""
        return SPECS[COLLECTIVES[self.op_type]].copies * self.size * self.segments

    def starts(self) -> list[int]:
        """Return the blocks before which some rank cuts; the same on all ranks."""
        if self.op_type not in FLAT:
            return list(range(self.count))
        entry = lookup(COLLECTIVES[self.op_type], self.algorithm)
        found = {0}
        for of_rank in schedule(entry.algorithm, self.size, self.root, **self.options):
            for step in (step for steps in of_rank for step in steps):
                for blocks in step:
                    if isinstance(blocks, tuple):
                        found |= {b % self.count for b in _cuts(blocks)}
        return sorted(found)


def _cuts(blocks: Blocks) -> Iterable[int]:
    """Yield where runs of neighbouring blocks begin, and what follows their ends."""
    for k, block in enumerate(blocks):
        if k == 0 or block != blocks[k - 1] + 1:
            yield block
        if k + 1 == len(blocks) or blocks[k + 1] != block + 1:
            yield block + 1
