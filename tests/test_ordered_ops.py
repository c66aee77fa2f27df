"""Operations whose order matters: every algorithm gives what functools.reduce does over ranks.

Each check is a function of a communicator that every rank calls, between threads and under mpirun.
"""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import Check, between_threads, hold_between_threads, into, same, same_none
from rank_calls import affine

from rankwise.collectives import Communicator
from rankwise.collectives.choice import WHOLE_UP_TO
from rankwise.collectives.shared import CHUNK
from rankwise.collectives.table import TABLE

MpiRun = Callable[..., subprocess.CompletedProcess[str]]
Array = np.ndarray[Any, np.dtype[Any]]

CHECKS: list[Check] = []
check = into(CHECKS)


def hold(comm: Communicator, ours: list[Array], op: Any, names: dict[str, list[str]]) -> None:
    """All collectives that combine, by these algorithms, on an operand of each rank."""
    x = ours[comm.rank]
    expected = np.asarray(functools.reduce(op, ours), x.dtype)
    for name in names["allreduce"]:
        same(comm.allreduce(x, op, algorithm=name), expected)
    for name in names["reduce"]:
        for root in {0, comm.size - 1}:
            got = comm.reduce(x, op, root, algorithm=name)
            same(got, expected) if comm.rank == root else same_none(got)
    for name in names["reduce_scatter"]:
        for dim in range(x.ndim):
            part = np.array_split(expected, comm.size, dim)[comm.rank].copy()
            same(comm.reduce_scatter(x, op, dim, algorithm=name), part)


def ordered(*, whole: bool) -> dict[str, list[str]]:
    """The algorithms that keep the order of ranks, and whole arrays where they must."""
    return {
        collective: [
            name for name, e in TABLE[collective].items() if e.ordered and e.whole >= whole
        ]
        + ["auto"]
        for collective in ("allreduce", "reduce", "reduce_scatter")
    }


@check
def functions_of_whole_arrays(comm: Communicator) -> None:
    def spoiling(left: Array, right: Array) -> Array:
        result = affine(left, right)
        left[...] = right[...] = -1  # they are the function's own
        return result

    for shape in ((2,), (7,), (3, 4), (WHOLE_UP_TO // 16 + 1, 2)):
        ours = [np.arange(np.prod(shape)).reshape(shape) % 5 + r for r in range(comm.size)]
        mine = ours[comm.rank].copy()
        hold(comm, ours, affine, ordered(whole=True))
        named = {collective: ["auto"] for collective in ("allreduce", "reduce", "reduce_scatter")}
        lent = comm.empty(shape, mine.dtype)  # which others read where it lies
        lent[...] = mine
        x = [lent if r == comm.rank else one for r, one in enumerate(ours)]
        expected = functools.reduce(affine, ours)
        for root in range(comm.size):
            got = comm.reduce(lent, spoiling, root)
            same(got, expected) if comm.rank == root else same_none(got)
        part = np.array_split(expected, comm.size)[comm.rank]
        same(comm.reduce_scatter(lent, spoiling), part)
        hold(comm, x, affine, named)
        np.testing.assert_array_equal(lent, mine)


@check
def ufuncs_of_elements(comm: Communicator) -> None:
    # |a| with the sign of b: associative, and not commutative.
    for count in (0, 1, 5, 1001, (1 << 19) + 3):
        ours = [
            np.where((np.arange(count) + r) % 3, 1.0, -1.0).astype(np.float32) * (r + 1)
            for r in range(comm.size)
        ]
        hold(comm, ours, np.copysign, ordered(whole=False))


@check
def a_ufunc_that_the_dtype_has_not_is_refused_before_anything_moves(comm: Communicator) -> None:
    for call in (comm.allreduce, comm.reduce, comm.reduce_scatter):
        with pytest.raises(TypeError, match="op 'copysign' is not defined for dtype complex64"):
            call(np.ones(3, np.complex64), np.copysign)
    same(comm.allreduce([1]), np.array([comm.size]))


@check
def they_go_through_memory_where_ranks_share_it(comm: Communicator) -> None:
    comm.allreduce([1])
    if comm._shared is None:
        return
    x, rings = np.ones((64, 3), np.int32), comm._shared.rings
    for collective, op, name, lent in (
        ("reduce", affine, "direct", comm.rank != 0),
        ("reduce_scatter", affine, "one_shot", 1),
        ("allreduce", np.copysign, "one_shot", 1),
        ("reduce", np.copysign, "direct", comm.rank != 0),
    ):
        x = x.astype(np.float32) if op is np.copysign else x
        assert comm.explain(collective, x.nbytes, x.dtype, op)[0] == name
        comm.barrier()
        rings[comm.rank][:] = 0
        before = comm.bytes_sent
        getattr(comm, collective)(x, op)
        assert comm.bytes_sent - before == lent * x.nbytes, collective
        assert rings[comm.rank].any() == bool(lent), collective
        comm.barrier()
    long = CHUNK + 4
    for collective, name in (("reduce", "direct"), ("reduce_scatter", "one_shot")):
        reason = comm.explain(collective, long, np.int32, affine, name).reason
        assert reason == f"affine takes whole arrays, and {name} has {CHUNK} B at a time"
    reason = comm.explain("reduce_scatter", 8, np.int32, affine, "direct").reason
    assert reason == "affine takes whole arrays, and direct has parts of them"


@between_threads(CHECKS)
def test_it_holds_between_threads(check: Check) -> None:
    hold_between_threads(check)


@pytest.mark.mpi
@pytest.mark.timeout(100)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_it_holds_between_processes(mpirun: MpiRun, ranks: int) -> None:
    program = str(Path(__file__).parent / "checking.py")
    done = mpirun(ranks, [program, "test_ordered_ops"], timeout=80)
    assert (done.returncode, done.stdout.strip()) == (0, f"checked {len(CHECKS)}"), done.stderr
