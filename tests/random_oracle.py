"""What random calls must give: by numpy alone, from the operands of all ranks."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from random_cases import (
    NOWHERE,
    OPS,
    ORDERED,
    REDUCING,
    ROOTED,
    SMALL_FLOATS,
    TO_ROOT,
    WITH_DIM,
    Array,
    Case,
    Post,
    odd_one,
    operands,
)
from rank_calls import bits

from rankwise.collectives.table import SPECIAL, TABLE

FOLDS: dict[str, Any] = {
    "sum": np.add,
    "builtin sum": np.add,
    "mean": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "builtin min": np.minimum,
    "max": np.maximum,
    "builtin max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
TRUTHS: dict[str, Any] = {
    "land": np.all,
    "lor": np.any,
    "lxor": lambda x, axis: np.sum(x, axis) % 2 == 1,
}
CHOICES = {"min", "max", "builtin min", "builtin max", "np.maximum", "np.fmin", "last"}
INTEGERS_ONLY = {"band", "bor", "bxor", "np.gcd", "np.bitwise_xor"}


def mistakes(case: Case, size: int) -> set[str]:
    """The exceptions of which one must be raised, on every rank."""
    return set(faults(case)) or ({"MismatchError"} if is_odd(case, size) else set())


def is_odd(case: Case, size: int) -> bool:
    """Whether the last rank makes another call, and that is all that is wrong."""
    return size > 1 and odd_one(case) is not None and not any(faults(case))


def faults(case: Case) -> Iterator[str]:
    """What is wrong with the call that all ranks make."""
    known = TABLE[case.collective]
    if case.algorithm not in (*known, *SPECIAL):
        yield "ValueError"
    if case.collective == "barrier":
        return
    ndim = max(len(case.shape), 1)
    dims = [case.dim] if case.collective in WITH_DIM else []
    dims += [case.other] if case.collective == "alltoall" else []
    if case.fault or any(not -ndim <= dim < ndim for dim in dims):
        yield "ValueError"
    if case.collective in ROOTED and case.root == NOWHERE:
        yield "ValueError"
    if case.dtype == "O":
        yield "TypeError"
    if case.collective in REDUCING:
        if case.op not in OPS:
            yield "ValueError"
        elif is_undefined(case.op, case.kind):
            yield "TypeError"
        entry = known.get(case.algorithm)
        # Those of shared memory stand aside for others where they cannot be taken.
        keeps_order = entry is None or entry.shared or (entry.ordered and entry.whole)
        if case.op in ORDERED and not keeps_order:
            yield "ValueError"


def is_undefined(op: str, kind: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype cannot be reduced so."""
    if op == "mean":
        return kind.kind in "biu"
    if op == "np.gcd":
        return kind.kind not in "iu"
    return op in INTEGERS_ONLY and kind.kind not in "biu"


@functools.lru_cache(maxsize=8)
def expected(case: Case, size: int) -> list[Array | None]:
    """What each rank gets; reductions of floats are rounded in one of several orders."""
    if case.collective == "barrier":
        return [None] * size
    brought, root = operands(case, size), case.root % size
    if case.collective == "broadcast":
        return [brought[root]] * size
    if case.collective in WITH_DIM:
        brought = [np.atleast_1d(x) for x in brought]
    if case.collective == "scatter":
        return list(np.array_split(brought[root], size, case.dim))
    if case.collective == "alltoall":
        parts = [np.array_split(x, size, case.dim) for x in brought]
        return [joined(case, [part[rank] for part in parts], case.other) for rank in range(size)]
    if case.collective in REDUCING:
        whole = reduced(case, brought)
    else:
        whole = joined(case, brought, case.dim)
    if case.collective == "reduce_scatter":
        return list(np.array_split(whole, size, case.dim))
    to_all = case.collective not in TO_ROOT
    return [whole if to_all or rank == root else None for rank in range(size)]


def joined(case: Case, parts: list[Array], dim: int) -> Array:
    """The parts one after another; numpy alone would make them native in byte order."""
    return np.concatenate(parts, dim, dtype=case.kind, casting="equiv")


def reduced(case: Case, arrays: list[Array]) -> Array:
    """All arrays combined from left to right, in their dtype."""
    if case.op in TRUTHS:
        truths = np.stack([x != 0 for x in arrays])
        return np.asarray(TRUTHS[case.op](truths, axis=0)).astype(case.kind)
    fold = FOLDS.get(case.op, OPS[case.op])
    with np.errstate(all="ignore"):
        whole = functools.reduce(lambda a, b: np.asarray(fold(a, b)).astype(case.kind), arrays)
        return np.asarray(whole / len(arrays)).astype(case.kind) if case.op == "mean" else whole


def is_rounded(case: Case) -> bool:
    """Whether the order of a reduction shows in its last bits."""
    is_float = case.kind.kind in "fc" or case.dtype in SMALL_FLOATS
    is_exact = case.op in CHOICES | TRUTHS.keys() | set(ORDERED)
    is_inexact = case.data != "small" or case.op == "mean"
    return case.collective in REDUCING and is_float and not is_exact and is_inexact


def unrounded(case: Case, size: int) -> tuple[Array, Array]:
    """The elements of a sum, mean or product, and how far roundings may take each of them.

    There are `size` of them at most, the division of a mean among them. Each is of half an eps of
    the intermediate result, which the sum or the product of absolute values bounds; complex
    products have the square root of 5 times that (Brent, Percival and Zimmermann 2007).
    """
    finfo: Any = ml_dtypes.finfo  # has no annotations
    wide = np.stack([x.astype(np.clongdouble) for x in operands(case, size)])
    is_product = case.op in ("prod", "np.multiply")
    fold = np.prod if is_product else np.sum
    share = size if case.op == "mean" else 1
    unit = float(finfo(case.kind).eps) / 2
    unit *= 5**0.5 if is_product and case.kind.kind == "c" else 1
    roundings = 2 * size if case.kind.char in "gG" else size  # as many in what is compared with
    error = math.expm1(roundings * math.log1p(unit))
    return fold(wide, 0) / share, error * fold(np.abs(wide), 0) / share


def compare(case: Case, got: list[Array | None]) -> None:
    """Compare the values of all ranks with numpy's, and those that all get with one another."""
    size = len(got)
    for rank, (mine, want) in enumerate(zip(got, expected(case, size), strict=True)):
        assert (mine is None) == (want is None), (rank, mine)
        if mine is None or want is None:
            continue
        assert (mine.dtype, mine.shape) == (want.dtype, want.shape), rank
        if is_rounded(case):
            whole, margin = (part_of(case, x, rank, size) for x in unrounded(case, size))
            error = np.abs(mine.astype(np.clongdouble) - whole)
            assert (error <= margin).all(), (rank, mine, whole)
        elif case.collective in REDUCING:  # zeros of both signs are equal
            np.testing.assert_array_equal(comparable(mine), comparable(want), f"rank {rank}")
        else:
            assert bits(mine) == bits(want), (rank, mine, want)
    if case.collective == "allreduce" and case.algorithm != "mpi":
        different = {bits(mine) for mine in got if mine is not None}
        assert len(different) == 1, f"ranks differ in their bits: {got}"


def part_of(case: Case, whole: Array, rank: int, size: int) -> Array:
    """What a rank gets of a reduction."""
    if case.collective != "reduce_scatter":
        return whole
    return np.array_split(np.atleast_1d(whole), size, case.dim)[rank]


def comparable(x: Array) -> Array:
    """numpy's own comparisons know no small floats."""
    return x.astype(np.float32) if x.dtype.type.__module__ == "ml_dtypes" else x


def deliver(post: Post, size: int, got: list[list[Array] | None]) -> None:
    """Compare what each rank has received; None has a rank that got an error."""
    for rank, arrays in enumerate(got):
        letters = [letter for letter in post.sent(size) if letter.dest == rank]
        assert (arrays is None) == any(letter.more for letter in letters), (rank, arrays)
        for letter, array in zip(letters, arrays or [], strict=arrays is not None):
            want = letter.content()
            assert (array.dtype, array.shape) == (want.dtype, want.shape), (rank, letter)
            assert bits(array) == bits(want), (rank, letter, array)
