"""What is called in the randomised tests: collectives, and messages, of all ranks of a group.

A case says everything, so that all ranks and the oracle make the same arrays of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from layouts import ORDINARY, Place
from rank_calls import affine, last

from rankwise.collectives.table import TABLE

Array = np.ndarray[Any, np.dtype[Any]]

MOST_RANKS = 4
SMALL_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
NUMBERS = [*"?bhilqBHILQefdgFDG", *SMALL_FLOATS, ">i4", ">f8", ">c8"]
OTHERS = ["S3", "U2", "M8[s]", "m8[ns]", "V5"]
NAMED = ["sum", "prod", "min", "max", "mean", "band", "bor", "bxor", "land", "lor", "lxor"]
OPS: dict[str, Any] = {
    **{name: name for name in NAMED},
    "builtin sum": sum,
    "builtin min": min,
    "builtin max": max,
    "np.add": np.add,
    "np.multiply": np.multiply,
    "np.maximum": np.maximum,
    "np.fmin": np.fmin,
    "np.gcd": np.gcd,
    "np.bitwise_xor": np.bitwise_xor,
    "affine": affine,
    "last": last,
    "np.matmul": np.matmul,
}
ORDERED = ("affine", "last", "np.matmul")  # of whole arrays, in the order of ranks

REDUCING = ("allreduce", "reduce", "reduce_scatter")
ROOTED = ("broadcast", "scatter", "gather", "reduce")
WITH_DIM = ("reduce_scatter", "allgather", "gather", "scatter", "alltoall")
UNEVEN = ("allgather", "gather", "alltoall")
FROM_ROOT = ("broadcast", "scatter")
TO_ROOT = ("reduce", "gather")
NOWHERE = 9  # no rank, no dim


@dataclass(frozen=True)
class Case:
    """One collective call, the same on all ranks but for what comes by rank.

    `other` is alltoall's concat_dim. `data`: "small" numbers, of which all results are exact,
    "any" of the dtype, or its "limits". `uneven` is added to the lengths along the dim in which
    ranks may differ; `counts`: all are told. `manners` are those of Call.
    `fault`: what is wrong with out on all ranks. `odd`: what the last rank does differently.
    """

    collective: str
    algorithm: str = "auto"
    dtype: str = "d"
    shape: tuple[int, ...] = ()
    op: str = "sum"
    root: int = 0
    dim: int = 0
    other: int = 0
    data: str = "small"
    seed: int = 0
    places: tuple[Place, ...] = (ORDINARY,) * MOST_RANKS
    into: tuple[Place | None, ...] = (None,) * MOST_RANKS
    uneven: tuple[int, ...] = (0,) * MOST_RANKS
    counts: bool = False
    view: bool = False
    manners: tuple[str, ...] = ("",) * MOST_RANKS
    fault: str = ""
    odd: str = ""

    @property
    def kind(self) -> np.dtype[Any]:
        return named(self.dtype)

    @property
    def joined(self) -> int:
        """The dim along which ranks may differ."""
        return self.other if self.collective == "alltoall" else self.dim

    def operand(self, rank: int) -> Array:
        """What a rank brings."""
        shape = list(self.shape)
        if any(self.uneven) and -len(shape) <= self.joined < len(shape):
            shape[self.joined] += self.uneven[rank]
        rng = np.random.default_rng([self.seed, rank])
        return elements(rng, tuple(shape), self.kind, self.data)


@functools.lru_cache(maxsize=8)
def operands(case: Case, size: int) -> list[Array]:
    """What all ranks bring, but for an odd one."""
    return [case.operand(rank) for rank in range(size)]


def lengths(case: Case, arrays: Sequence[Array]) -> list[int]:
    """Along the dim in which they may differ."""
    return [np.atleast_1d(x).shape[case.joined] for x in arrays]


ODD = ("dtype", "shape", "op", "algorithm", "root", "dim", "counts", "collective")


def odd_one(case: Case) -> Case | None:
    """The call of a rank that differs from `case`; None if there is no such difference."""
    has_x = case.collective not in ("barrier", *FROM_ROOT)
    match case.odd:
        case "dtype" if has_x:
            first, second = ("d", "f") if case.op == "mean" else ("h", "i")
            return replace(case, dtype=second if case.dtype == first else first)
        case "shape" if has_x and case.shape:
            return replace(case, shape=(*case.shape, 2))
        case "op" if case.collective in REDUCING:
            return replace(case, op="min" if "max" in case.op else "max")
        case "algorithm" if case.algorithm in plain(case.collective):
            others = [name for name in plain(case.collective) if name != case.algorithm]
            return replace(case, algorithm=others[0]) if others else None
        case "root" if case.collective in ROOTED:
            return replace(case, root=case.root + 1)
        case "dim" if case.collective in WITH_DIM and len(case.shape) > 1:
            return replace(case, dim=(case.dim + 1) % len(case.shape), counts=False)
        case "counts" if case.collective in UNEVEN:
            return replace(case, counts=not case.counts)
        case "collective":
            return Case("allgather" if case.collective == "barrier" else "barrier", shape=(1,))
    return None


def plain(collective: str) -> list[str]:
    """Algorithms by messages that can do every call."""
    entries = TABLE[collective].items()
    return [name for name, e in entries if e.ordered and e.whole and not e.shared]


@dataclass(frozen=True)
class Letter:
    """One message from a rank to another.

    Where all ranks send at once `source` does not count and `dest` is so far to the right.
    `into` is None where what is received is a new array, like an example. `more`: rows that
    the receiver expects beside those that come, which may be less than none.
    """

    source: int
    dest: int
    tag: int = 0
    dtype: str = "d"
    shape: tuple[int, ...] = (3,)
    data: str = "small"
    seed: int = 0
    place: Place = ORDINARY
    into: Place | None = ORDINARY
    more: int = 0

    @property
    def kind(self) -> np.dtype[Any]:
        return named(self.dtype)

    def content(self) -> Array:
        rng = np.random.default_rng([self.seed, self.source])
        return elements(rng, self.shape, self.kind, self.data)


@dataclass(frozen=True)
class Post:
    """Messages among the ranks of a group. `how` is that of Exchange."""

    how: str
    letters: tuple[Letter, ...] = ()
    backwards: bool = False

    def sent(self, size: int) -> Iterator[Letter]:
        """The messages among so many ranks, in order."""
        for letter, rank in itertools.product(self.letters, range(size)):
            if self.how == "sendrecv":
                yield replace(letter, source=rank, dest=(rank + letter.dest) % size)
            elif rank == letter.source % size:
                dest = letter.dest % size
                if self.how != "send" or dest != rank:  # one would wait for itself
                    yield replace(letter, source=rank, dest=dest)


def named(dtype: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def elements(
    rng: np.random.Generator, shape: tuple[int, ...], kind: np.dtype[Any], data: str
) -> Array:
    """An array of small whole numbers, of any numbers, or of those at the limits of the dtype."""
    raw: Any
    if is_other(kind):
        raw = rng.integers(0, 100, shape)
        raw = np.asarray(raw, "S5") if kind.kind == "V" else raw
    elif data == "small" or kind.kind in "bO":
        raw = rng.integers(0 if kind.kind in "bu" else -1, 2, shape)
    elif kind.kind in "iu":
        bounds = np.iinfo(kind)
        native = kind.newbyteorder("=")
        if data == "limits":
            raw = rng.choice(np.array([bounds.min, bounds.max, 0, 1], native), shape)
        else:
            raw = rng.integers(bounds.min, bounds.max, shape, native, endpoint=True)
    elif kind.kind == "c":
        raw = np.empty(shape, np.clongdouble)
        raw.real, raw.imag = real(rng, shape, data), real(rng, shape, data)
    else:
        raw = real(rng, shape, data)
    with np.errstate(all="ignore"):
        return np.asarray(raw).astype(kind)


def is_other(kind: np.dtype[Any]) -> bool:
    """Text, times and bytes, which are moved and not reduced."""
    return kind.kind in "SUMmV" and kind.type.__module__ != "ml_dtypes"


def real(rng: np.random.Generator, shape: tuple[int, ...], data: str) -> Array:
    """Signed numbers between 1/2 and 2, of which no product of a few leaves a dtype's range."""
    if data == "limits":
        return rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-7, 6e4, -1e300], shape)
    return rng.choice([-1.0, 1.0], shape) * 2 ** rng.uniform(-1, 1, shape)
