"""Collectives through shared memory.

Each check is a function of a communicator that every rank calls under mpirun.
"""

import gc
import itertools
import os
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import Check, into
from conftest import MpiRun

from rankwise.collectives import (
    CollectiveError,
    CollectiveTimeout,
    Communicator,
    MismatchError,
    Patience,
)
from rankwise.collectives.reduction import TILE
from rankwise.collectives.shared import CHUNK

Array = np.ndarray[Any, np.dtype[Any]]

NAMES = ["one_shot", "two_shot", "single_copy", "auto"]
DTYPES = [
    *"?bhilqBHILQefdgFDG", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ">i4", ">f8", "m8[s]",
]  # fmt: skip
OPS: list[tuple[str, Any, str]] = [
    ("sum", np.add, "d"), ("prod", np.multiply, "F"), ("min", np.minimum, "h"),
    ("max", np.maximum, "e"), ("band", np.bitwise_and, "B"), ("bor", np.bitwise_or, "i"),
    ("bxor", np.bitwise_xor, "Q"), ("land", np.logical_and, "?"), ("lor", np.logical_or, "?"),
    ("lxor", np.logical_xor, "?"),
]  # fmt: skip

CHECKS: list[Check] = []
check = into(CHECKS)


def operands(comm: Communicator, count: int, dtype: Any = np.float32) -> list[Array]:
    """Of every rank: small whole numbers, of which every sum is exact in every dtype."""
    return [((np.arange(count) * 7 + 2 * rank) % 3).astype(dtype) for rank in range(comm.size)]


def equal(got: Array, expected: Array) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(got, expected)


def noise(comm: Communicator, count: int) -> Array:
    """Float32 numbers of this rank, of which no two sums in different orders are equal."""
    return np.random.default_rng(comm.rank).standard_normal(count).astype(np.float32)


@check
def ranks_of_one_node_share_memory(comm: Communicator) -> None:
    comm.allreduce([1])
    assert (comm._shared is not None) == (comm.size > 1)


@check
def every_dtype_is_summed(comm: Communicator) -> None:
    for dtype, name in itertools.product(DTYPES, NAMES):
        for count in (7, CHUNK // np.dtype(dtype).itemsize + 5):
            ours = operands(comm, count, dtype)
            expected = reduce(lambda a, b: np.asarray(a + b, a.dtype), ours)
            equal(comm.allreduce(ours[comm.rank], algorithm=name), expected)


@check
def every_operation_is_that_of_numpy(comm: Communicator) -> None:
    for (op, function, dtype), name in itertools.product(OPS, NAMES):
        ours = operands(comm, 1001, dtype)
        equal(comm.allreduce(ours[comm.rank], op, algorithm=name), reduce(function, ours))
    ours = operands(comm, 1001, "d")
    for name in NAMES:
        equal(comm.allreduce(ours[comm.rank], "mean", algorithm=name), sum(ours) / comm.size)
        equal(comm.allreduce(ours[comm.rank], np.hypot, algorithm=name), reduce(np.hypot, ours))


@check
def lengths_around_every_border(comm: Communicator) -> None:
    per_tile, per_slot = TILE // 4, CHUNK // 4
    borders = [0, 1, comm.size, per_tile, per_tile * comm.size, per_slot, 2 * per_slot]
    counts = {border + step for border in borders for step in (-1, 0, 1) if border + step >= 0}
    for count in sorted(counts | {2, 3, 5, 7, 10007, 5 * per_slot + 11, 1_000_003}):
        ours = operands(comm, count)
        for name in NAMES:
            equal(comm.allreduce(ours[comm.rank], algorithm=name), sum(ours, np.float32(0)))


@check
def shapes_memory_orders_and_places_for_the_result(comm: Communicator) -> None:
    for shape, name in itertools.product([(), (3, 5), (2, 3, 30000)], NAMES):
        size = int(np.prod(shape))
        ours = [x.reshape(shape) for x in operands(comm, size)]
        expected, x = np.asarray(sum(ours), np.float32), ours[comm.rank]
        wide = np.zeros((*shape[:-1], 2 * shape[-1]) if shape else (), np.float32)
        spread = wide[..., ::2] if shape else wide
        spread[...] = x
        for same in (x, np.asfortranarray(x).reshape(shape, order="F"), spread):
            equal(comm.allreduce(same, algorithm=name), expected)
            equal(same, x)
            out = np.full(shape, 9, np.float32)
            assert comm.allreduce(same, out=out, algorithm=name) is out
            equal(out, expected)
        equal(comm.allreduce(x, out=spread, algorithm=name), expected)
        assert comm.allreduce(x, out=x, algorithm=name) is x
        equal(x, expected)
    line = np.zeros(100_001, np.float32)
    line[1:] = operands(comm, 100_000)[comm.rank]
    comm.allreduce(line[1:], out=line[:-1])  # they overlap
    equal(line[:-1], sum(operands(comm, 100_000), np.float32(0)))


@check
def all_ranks_hold_the_same_bits_and_the_lowest_rank_is_first(comm: Communicator) -> None:
    for count, name in itertools.product((1, 1001, 300_007), NAMES):
        x = noise(comm, count)
        everyone = comm.allgather(x.reshape(1, -1))
        expected = reduce(np.add, everyone)
        for result in (
            comm.allreduce(x, algorithm=name),
            comm.allreduce(x, out=x if comm.rank % 2 else None, algorithm=name),
        ):
            assert result.tobytes() == expected.tobytes()


@check
def many_calls_of_many_kinds_in_a_row(comm: Communicator) -> None:
    rng = np.random.default_rng(0)  # the same on all ranks
    for turn in range(300):
        count = int(rng.choice([1, 10, 1000, 70_000, 200_000], p=[0.3, 0.3, 0.2, 0.1, 0.1]))
        dtype = rng.choice(["f", "d", "i"])
        x = np.full(count, comm.rank + turn, dtype)
        got = comm.allreduce(x, algorithm=str(rng.choice(NAMES)))
        expected = comm.size * turn + comm.size * (comm.size - 1) // 2
        assert (got == expected).all(), turn


@check
def groups_and_communicators_in_turn(comm: Communicator) -> None:
    twin, half = comm.split(0), comm.split(comm.rank % 2)
    assert twin is not None and half is not None
    for count, _ in itertools.product((3, 100_003), range(5)):
        ours = operands(comm, count)
        equal(half.allreduce(ours[comm.rank]), sum(ours[comm.rank % 2 :: 2], np.float32(0)))
        for one in (twin, comm):
            equal(one.allreduce(ours[comm.rank]), sum(ours, np.float32(0)))
    twin.free()
    half.free()


@check
def bytes_are_counted_once(comm: Communicator) -> None:
    comm.allreduce([1])
    for name, count in itertools.product(NAMES, (0, 5, 200_000)):
        x, before = np.ones(count, np.float32), comm.bytes_sent
        comm.allreduce(x, algorithm=name)
        # What others read here: all of x, or of it their blocks, and this rank's result each.
        own = np.array_split(x, comm.size)[comm.rank].nbytes if name == "single_copy" else 0
        read = x.nbytes - own + (comm.size - 1) * own if own else x.nbytes
        assert comm.bytes_sent - before == (read if comm.size > 1 else 0)


@check
def functions_get_whole_arrays_in_the_order_of_ranks(comm: Communicator) -> None:
    factors = [np.array([[1, r + 1], [r, 1 + r * (r + 1)]]) for r in range(comm.size)]
    expected = reduce(np.matmul, factors)

    def product(left: Array, right: Array) -> Array:
        result = left @ right
        left[...] = right[...] = -1  # they are the function's own
        return result

    for name in (*NAMES, "tree"):
        for shape in (
            (2, 2),
            (CHUNK // 32 + 1, 2, 2),
        ):  # within a chunk, and beyond
            x = np.broadcast_to(factors[comm.rank], shape)
            got = comm.allreduce(x, product, algorithm=name)
            equal(got, np.ascontiguousarray(np.broadcast_to(expected, shape)))
            equal(x, np.broadcast_to(factors[comm.rank], shape))
        x = factors[comm.rank].copy()
        assert comm.allreduce(x, product, out=x, algorithm=name) is x
        equal(x, expected)
        equal(comm.allreduce(factors[comm.rank], product, view=True, algorithm=name), expected)
    if comm.size > 1:
        before = comm.bytes_sent
        comm.allreduce(factors[comm.rank], product)
        assert comm.bytes_sent - before == 32  # once, by one_shot
        with pytest.raises(TypeError, match="expected op to return"):
            comm.split(0).allreduce(factors[comm.rank], lambda a, b: (a @ b)[:1])  # type: ignore[union-attr]


@check
def calls_that_differ_are_told_on_every_rank(comm: Communicator) -> None:
    if comm.size == 1:
        return
    cases: list[tuple[Callable[[Communicator, bool], object], str, str]] = [
        (lambda c, last: c.allreduce(np.ones(4 if last else 3)), r"\(3,\)", r"\(4,\)"),
        (lambda c, last: c.allreduce(np.ones((2, 3) if last else (3, 2))),
         r"\(3, 2\)", r"\(2, 3\)"),
        (lambda c, last: c.allreduce(np.ones(3, "f" if last else "d")), "float64", "float32"),
        (lambda c, last: c.allreduce([1], "max" if last else "min"), "min", "max"),
        (lambda c, last: c.allreduce(np.ones(1 << 20 if last else 8)), r"\(8,\)", r"\(1048576,\)"),
        (lambda c, last: c.allreduce([1], algorithm="two_shot" if last else "one_shot"),
         "one_shot", "two_shot"),
    ]  # fmt: skip
    for call, others_have, last_has in cases:
        for calls_before in range(2):
            copy = comm.split(0)
            assert copy is not None
            for _ in range(calls_before):
                copy.allreduce([1])
            with pytest.raises(MismatchError) as caught:
                call(copy, copy.rank == copy.size - 1)
            for text in (
                f"rank {copy.rank} calls",
                f"rank {copy.size - 1}",
                others_have,
                last_has,
            ):
                caught.match(text)
            x = np.full(1 << 18, 2.0)
            equal(copy.allreduce(x), x * copy.size)  # nothing had moved
            copy.free()


@check
def ranks_that_give_up_say_so(comm: Communicator) -> None:
    if comm.size == 1:
        return
    from mpi4py import MPI  # here, since pytest's own process does without

    with Communicator(MPI.COMM_WORLD) as copy:
        copy.allreduce([1])
        if copy.rank == 1:
            copy._transport.patience = Patience(timeout=0.2)
            with pytest.raises(CollectiveTimeout, match=r"rank 1 of . has waited for rank"):
                copy.barrier(algorithm="dissemination")
        else:
            with pytest.raises(CollectiveError, match="rank 1 gave up: CollectiveTimeout: rank 1"):
                copy.allreduce([1])
        comm.barrier()


@check
def a_silent_rank_is_given_up(comm: Communicator) -> None:
    if comm.size == 1:
        return
    from mpi4py import MPI  # here, since pytest's own process does without

    with Communicator(MPI.COMM_WORLD) as copy:
        copy.allreduce([1])
        if copy.rank == 0:
            copy._transport.patience = Patience(timeout=0.2)
            with pytest.raises(
                CollectiveTimeout, match=r"rank 0 of . has waited for rank 1 in allreduce for"
            ):
                copy.allreduce([1])
            with pytest.raises(CollectiveError, match="broken by CollectiveTimeout"):
                copy.allreduce([1])
        comm.barrier()


@check
def communicators_leave_nothing_behind(comm: Communicator) -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("memfd:rankwise")

    comm.allreduce([1])
    before = held()
    for _ in range(1000):
        copy = comm.split(0)
        assert copy is not None
        assert copy.allreduce([1])[0] == comm.size
        copy.free()
    assert held() == before


@pytest.mark.mpi
@pytest.mark.timeout(150)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_check_holds_between_processes(mpirun: MpiRun, ranks: int) -> None:
    program = str(Path(__file__).parent / "checking.py")
    done = mpirun(ranks, [program, "test_shared"], timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, f"checked {len(CHECKS)}"), done.stderr
