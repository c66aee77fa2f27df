"""Reductions against numpy: every dtype, shape, memory order and order of ranks."""

import functools

import numpy as np
import pytest
from checking import (
    NUMBERS,
    SHAPES,
    Check,
    bent,
    between_threads,
    hold_between_threads,
    into,
    names,
    operand,
    operands,
    ordered,
    same,
    same_none,
    total,
)

from rankwise.collectives import Communicator
from rankwise.collectives.table import TABLE

CHECKS: list[Check] = []
check = into(CHECKS)


@check
def sums_in_every_dtype(comm: Communicator) -> None:
    for dtype in NUMBERS:
        ours = operands(comm, (7,), dtype)
        expected = total(ours)
        for name in names("allreduce"):
            same(comm.allreduce(ours[comm.rank], algorithm=name), expected)
        for name in names("reduce_scatter"):
            part = comm.reduce_scatter(ours[comm.rank], algorithm=name)
            same(part, np.array_split(expected, comm.size)[comm.rank])
        for name in names("reduce"):
            got = comm.reduce(ours[comm.rank], root=comm.size - 1, algorithm=name)
            same(got, expected) if comm.rank == comm.size - 1 else same_none(got)


@check
def reductions_of_every_shape_and_memory_order(comm: Communicator) -> None:
    for shape in SHAPES:
        expected = total(operands(comm, shape))
        for x in bent(operand(comm.rank, shape)):
            for name in names("allreduce"):
                same(comm.allreduce(x, algorithm=name), expected)
            for dim in range(-len(shape), len(shape)):
                part = np.array_split(expected, comm.size, dim)[comm.rank]
                for name in names("reduce_scatter"):
                    same(comm.reduce_scatter(x, dim=dim, algorithm=name), part.copy())


@check
def results_equal_on_all_ranks_to_the_last_bit(comm: Communicator) -> None:
    x = np.random.default_rng(comm.rank).standard_normal(1001).astype(np.float32)
    x[comm.rank] = -0.0
    for name in TABLE["allreduce"]:
        for op in ("sum", "prod", "max", "min"):
            result = comm.allreduce(x, op, algorithm=name)
            everyone = comm.allgather(result.view(np.uint32).reshape(1, -1))
            assert (everyone == everyone[0]).all(), (name, op)


@check
def functions_keep_the_order_of_ranks(comm: Communicator) -> None:
    # Products of integer matrices: exact, associative, and not commutative.
    factors = [np.array([[1, r + 1], [r, 1 + r * (r + 1)]]) for r in range(comm.size)]
    product = functools.reduce(np.matmul, factors)
    for op in (np.matmul, lambda a, b: a @ b):
        for name in (*ordered("allreduce"), "auto", "mpi"):
            same(comm.allreduce(factors[comm.rank], op, algorithm=name), product)
        for dim in (0, 1):
            part = np.array_split(product, comm.size, dim)[comm.rank].copy()
            same(comm.reduce_scatter(factors[comm.rank], op, dim), part)
        for root in range(comm.size):
            for name in (*ordered("reduce"), "auto"):
                got = comm.reduce(factors[comm.rank], op, root, algorithm=name)
                same(got, product) if comm.rank == root else same_none(got)


@check
def an_algorithm_that_breaks_the_order_is_refused(comm: Communicator) -> None:
    with pytest.raises(ValueError, match=r"\(tree, knomial, .*\) for op '<lambda>'"):
        comm.allreduce([1], lambda a, b: a, algorithm="ring")
    with pytest.raises(ValueError, match=r"\(ordered_tree, chain, .*\) for op .subtract"):
        comm.reduce([1], np.subtract, algorithm="tree")


@check
def a_list_is_summed_by_the_builtin(comm: Communicator) -> None:
    same(comm.allreduce([1, 2, 3], op=sum), comm.size * np.array([1, 2, 3]))


@between_threads(CHECKS)
def test_it_holds_between_threads(check: Check) -> None:
    hold_between_threads(check)
