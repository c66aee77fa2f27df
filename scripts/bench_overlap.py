"""Time allreduce behind compute, under mpirun, with one thread of compute for each rank.

    export OPENBLAS_NUM_THREADS=1
    mpirun -n 2 python scripts/bench_overlap.py
    scripts/hosts -n 2 --slots 1 --rate 1gbit -- mpirun -n 2 python scripts/bench_overlap.py \\
        --busy-link

Compute is one product of matrices, by numpy or by onnxruntime, that takes as long as the allreduce
of float32 beside it. `in turn` does one after the other; `begun` calls iallreduce, computes, and
waits. `hidden` is what that saves, as a share of the shorter one of the two. Prints a markdown
table: medians over the repetitions, in milliseconds, of the slowest rank, and in brackets the
ratio of the upper to the lower quartile. Calls alternate, in an order that turns round every time,
with a barrier before each.

Through memory an allreduce is work of the cores. Where rank 0 alone computes, a core is left for
it. Where both ranks compute on two cores none is, and there is nothing to hide behind but the time
in which one rank waits for the other. Over a link (--busy-link) most of the time is waiting.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
from bench_allreduce import heading
from numpy.typing import NDArray

from rankwise.collectives import Communicator
from rankwise.models.builder import Builder

SIZES = (1 << 20, 16 << 20)  # bytes
WIDTH = 512  # of the matrices
NAMES = ("compute", "allreduce", "in turn", "begun")

Compute = Callable[[], object]
Matrix = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line")
    parser.add_argument("--busy-link", action="store_true", help="each rank is on another host")
    given = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        parser.error("expected OPENBLAS_NUM_THREADS=1 in the environment")
    with Communicator.world() as comm:
        is_apart = len(comm.node_ranks) < comm.size
        if given.busy_link != is_apart:
            where = "several hosts" if is_apart else "one host"
            parser.error(f"expected --busy-link on several hosts only, the ranks are on {where}")
        if comm.rank == 0:
            columns = ["compute by", "of", "bytes", *NAMES, "hidden"]
            print(heading(comm.size) + f"\nonnxruntime {onnxruntime.__version__}\n")
            print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for who in ["all ranks"] if is_apart else ["rank 0", "all ranks"]:
            for name, product in (("numpy", np.matmul), ("onnxruntime", session())):
                for nbytes in SIZES:
                    times = measured(comm, product, nbytes, who, given.seconds)
                    if comm.rank == 0:
                        print(f"| {name} | {who} | {nbytes} | {line(times)} |", flush=True)


def session() -> Callable[[Matrix, Matrix], object]:
    """The product of two matrices by onnxruntime."""
    g = Builder("product")
    x = g.input("x", np.float32, ["rows", WIDTH])
    y = g.input("y", np.float32, [WIDTH, WIDTH])
    g.output(g.op("MatMul", x, y, out="z"), np.float32, ["rows", WIDTH])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(g.model().SerializeToString(), options)
    return lambda x, y: found.run(None, {"x": x, "y": y})


def measured(
    comm: Communicator,
    product: Callable[[Matrix, Matrix], object],
    nbytes: int,
    who: str,
    seconds: float,
) -> NDArray[np.float64]:
    """The times of NAMES, in seconds: the slowest rank of each repetition."""
    x, out = np.ones(nbytes // 4, np.float32), np.empty(nbytes // 4, np.float32)
    alone = min(timed(comm, lambda: comm.allreduce(x, out=out)) for _ in range(5))
    compute = computing(comm, product, alone)
    if who == "rank 0" and comm.rank > 0:
        compute = nothing

    def begun() -> None:
        work = comm.iallreduce(x, out=out)
        compute()
        work.wait()

    def in_turn() -> None:
        comm.allreduce(x, out=out)
        compute()

    calls = [compute, lambda: comm.allreduce(x, out=out), in_turn, begun]
    trial = sum(timed(comm, call) for _ in range(2) for call in calls) / 2
    repetitions = int(min(200, max(7, seconds / trial)))
    times = np.empty((len(calls), repetitions))
    for turn in range(repetitions):
        for index in range(len(calls))[:: 1 if turn % 2 else -1]:
            times[index, turn] = timed(comm, calls[index])
    return times


def nothing() -> None:
    """The compute of a rank that has none."""


def computing(
    comm: Communicator, product: Callable[[Matrix, Matrix], object], seconds: float
) -> Compute:
    """A product of matrices that takes about so long."""
    right = np.full((WIDTH, WIDTH), 1 / WIDTH, np.float32)

    def of(rows: int) -> Compute:
        left = np.ones((rows, WIDTH), np.float32)
        return lambda: product(left, right)

    trial = min(timed(comm, of(WIDTH)) for _ in range(5))
    return of(max(1, round(WIDTH * seconds / trial)))


def timed(comm: Communicator, call: Compute) -> float:
    """The seconds of a call on the slowest rank, after a barrier."""
    comm.barrier()
    start = time.perf_counter()
    call()
    return float(comm.allreduce([time.perf_counter() - start], max)[0])


def line(times: NDArray[np.float64]) -> str:
    """Medians with their spread, and the share that is hidden."""
    low, medians, high = np.quantile(times * 1e3, [0.25, 0.5, 0.75], axis=1)
    compute, alone, in_turn, begun = medians
    cells = [f"{m:.2f} ({b / a:.1f})" for a, m, b in zip(low, medians, high, strict=True)]
    return " | ".join([*cells, f"{(in_turn - begun) / min(compute, alone):.0%}"])


if __name__ == "__main__":
    main()
