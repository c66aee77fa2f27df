"""What collectives move, against numpy: every dtype, shape, root and memory order."""

import numpy as np
from checking import (
    NUMBERS,
    OTHERS,
    SHAPES,
    Check,
    bent,
    between_threads,
    hold_between_threads,
    into,
    names,
    operand,
    operands,
    same,
    same_none,
    total,
)

from rankwise.collectives import Communicator

CHECKS: list[Check] = []
check = into(CHECKS)


@check
def moves_of_every_dtype(comm: Communicator) -> None:
    for dtype in [*NUMBERS, *OTHERS]:
        kind = np.dtype(dtype)
        raw = np.arange(12 * kind.itemsize, dtype=np.uint8).reshape(12, -1) % 2
        if kind.kind in "SU":
            whole = np.array([f"{i}" for i in range(12)], kind)
        else:
            whole = raw.reshape(-1).view(kind)
        parts = np.array_split(whole, comm.size)
        for name in names("allgather"):
            same(comm.allgather(parts[comm.rank], algorithm=name), whole)
        for name in names("broadcast"):
            same(comm.broadcast(whole if comm.rank == 0 else None, algorithm=name), whole)
        for name in names("scatter"):
            got = comm.scatter(whole if comm.rank == 0 else None, algorithm=name)
            same(got, parts[comm.rank])
        for name in names("gather"):
            got_or_none = comm.gather(parts[comm.rank], algorithm=name)
            same(got_or_none, whole) if comm.rank == 0 else same_none(got_or_none)
        for name in names("alltoall"):
            expected = np.tile(parts[comm.rank], comm.size)
            same(comm.alltoall(whole, algorithm=name), expected)
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        same(comm.sendrecv(parts[comm.rank], right, parts[left], left), parts[left])


@check
def moves_of_every_shape_root_and_memory_order(comm: Communicator) -> None:
    for shape in SHAPES[1:]:
        ours = operands(comm, shape)
        for dim in range(len(shape)):
            together = np.concatenate(ours, dim)
            for x in bent(ours[comm.rank]):
                for name in names("allgather"):
                    same(comm.allgather(x, dim, algorithm=name), together)
            for root in range(comm.size):
                x = ours[comm.rank]
                for name in names("gather"):
                    got = comm.gather(x, root, dim, algorithm=name)
                    same(got, together) if comm.rank == root else same_none(got)
                for name in names("scatter"):
                    part = comm.scatter(
                        x if comm.rank == root else None, root, dim, algorithm=name
                    )
                    same(part, np.array_split(ours[root], comm.size, dim)[comm.rank].copy())
    for root in range(comm.size):
        for shape in SHAPES:
            x = operand(comm.rank, shape)
            expected = operand(root, shape)
            for name in names("broadcast"):
                same(
                    comm.broadcast(x if comm.rank == root else None, root, algorithm=name),
                    expected,
                )
            for name in names("reduce"):
                got = comm.reduce(x, "sum", root, algorithm=name)
                same(got, total(operands(comm, shape))) if comm.rank == root else same_none(got)


@check
def alltoall_along_any_two_dims(comm: Communicator) -> None:
    for shape in [(5, 3), (2, 0), (4, 4, 3)]:
        ours = operands(comm, shape)
        for split_dim in range(len(shape)):
            for concat_dim in range(len(shape)):
                parts = [np.array_split(x, comm.size, split_dim)[comm.rank] for x in ours]
                for x in bent(ours[comm.rank]):
                    for name in names("alltoall"):
                        got = comm.alltoall(x, split_dim, concat_dim, algorithm=name)
                        same(got, np.concatenate(parts, concat_dim))


@check
def ranks_of_different_lengths(comm: Communicator) -> None:
    ours = [operand(rank, (2, rank, 3)) for rank in range(comm.size)]
    together, counts = np.concatenate(ours, 1), range(comm.size)
    x = ours[comm.rank]
    same(comm.allgather(x, 1), together)
    same(comm.allgather(x, -2, counts=counts), together)
    got = comm.gather(x, comm.size - 1, 1, counts=counts)
    same(got, together) if comm.rank == comm.size - 1 else same_none(got)
    for split_dim in range(3):
        parts = [np.array_split(y, comm.size, split_dim)[comm.rank] for y in ours]
        for given in (None, counts):
            same(comm.alltoall(x, split_dim, 1, counts=given), np.concatenate(parts, 1))


@check
def headers_that_are_longer_than_a_cell(comm: Communicator) -> None:
    fields = np.dtype([(f"a field with a long name, number {i}", "i4") for i in range(30)])
    rows = np.arange(30 * 2, dtype=np.int32).view(fields)
    same(comm.broadcast(rows if comm.rank == 0 else None), rows)
    same(comm.allgather(rows), np.concatenate([rows] * comm.size))


@between_threads(CHECKS)
def test_it_holds_between_threads(check: Check) -> None:
    hold_between_threads(check)
