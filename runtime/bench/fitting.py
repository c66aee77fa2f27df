"""bench --fit: the constants of the cost model, fitted to calls that were timed.

Every call is a line of a linear system: the rounds, bytes and reduced bytes that cost.seconds
counts in it, and one overhead. Two kinds of calls go in: an exchange, where every rank sends to
the next one while it receives from the one before, and allreduces by algorithms that move and
reduce in different proportions. Residuals are relative, so that small sizes count as much as large
ones. What comes out is tried on algorithms that did not go in.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...collectives import Communicator
from ...collectives.cluster import Cluster
from ...collectives.cost import seconds
from ...collectives.origin import Origin
from ...collectives.table import TABLE
from ..agreement import together
from .options import BenchOptions
from .timing import Call, Progress, alternated

Floats = npt.NDArray[np.float64]

FITTED = ("recursive_doubling", "ring", "tree")
TRIED = ("rabenseifner", "knomial")
EXCHANGE = "exchange"
BUFFERS = 4


class Sample(NamedTuple):
    """One kind of call at one size, and its median time."""

    name: str
    nbytes: int
    seconds: float


def fit(options: BenchOptions, comm: Communicator, progress: Progress, origin: Origin) -> int:
    """Measure, fit, write the cluster file, and print predictions beside measurements."""
    samples = list(_measured(options, comm, progress))
    cluster = fitted(samples, comm.size, origin)

    def write() -> None:
        assert options.fit is not None
        cluster.write(Path(options.fit))
        progress.show(report(cluster, samples))
        progress.show(f"# written to {options.fit}")

    together(comm, lambda: write() if comm.rank == 0 else None)
    return 0


def _measured(options: BenchOptions, comm: Communicator, progress: Progress) -> Iterator[Sample]:
    """Time all calls, size by size."""
    for nbytes in sorted({_blocks(size, comm.size) for size in options.sizes}):
        calls = _calls(comm, nbytes)
        what = f"{nbytes} bytes"
        times = alternated(comm, calls, options.iters, options.warmup, progress, what)
        for name, row in times.items():
            yield Sample(name, nbytes, float(np.median(row)))


def _calls(comm: Communicator, nbytes: int) -> dict[str, Call]:
    """An exchange, and allreduces in place, of float32."""
    pairs = [np.zeros((2, nbytes // 4), np.float32) for _ in range(BUFFERS)]
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size

    def exchange(turn: int) -> object:
        x, out = pairs[turn % BUFFERS]
        return comm.sendrecv(x, right, out, left)

    def allreduce(name: str, turn: int) -> object:
        x, _ = pairs[turn % BUFFERS]
        return comm.allreduce(x, out=x, algorithm=name)

    reductions = {name: Call(functools.partial(allreduce, name)) for name in (*FITTED, *TRIED)}
    return {EXCHANGE: Call(exchange), **reductions}


def _blocks(nbytes: int, ranks: int) -> int:
    """The next size that makes equal blocks of float32."""
    return -(-nbytes // (4 * ranks)) * 4 * ranks


def counted(name: str, ranks: int, nbytes: int) -> Floats:
    """What a call costs of overhead, alpha, beta and gamma, each in its own unit."""
    if name == EXCHANGE:
        return np.array([1.0, 1.0, nbytes, 0.0])
    algorithm = TABLE["allreduce"][name].algorithm
    units = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    cost = [seconds(algorithm, ranks, nbytes, alpha=a, beta=b, gamma=c) for a, b, c in units]
    return np.array([1.0, *cost])


def fitted(samples: list[Sample], ranks: int, origin: Origin) -> Cluster:
    """The constants whose predictions have the least squares of relative errors."""
    used = [sample for sample in samples if sample.name not in TRIED]
    rows = np.array([counted(s.name, ranks, s.nbytes) / s.seconds for s in used])
    overhead, alpha, beta, gamma = nonnegative(rows, np.ones(len(used))).tolist()
    return Cluster(alpha, beta, gamma, overhead, ranks, origin)


def nonnegative(rows: Floats, values: Floats) -> Floats:
    """Least squares with no negative unknown: the most negative one is left out until none is."""
    kept = list(range(rows.shape[1]))
    while kept:
        # Columns differ by many powers of ten; scaled, none is taken for zero.
        scale = np.abs(rows[:, kept]).max(axis=0)
        found = np.linalg.lstsq(rows[:, kept] / scale, values, rcond=None)[0] / scale
        if (found >= 0).all():
            break
        del kept[int((found * scale).argmin())]
    result = np.zeros(rows.shape[1])
    if kept:
        result[kept] = found
    return result


def report(cluster: Cluster, samples: list[Sample]) -> str:
    """Predictions beside measurements, and the deviation that is farthest from none."""
    lines = [
        f"{'algorithm':18} {'size (B)':>10} {'measured (us)':>14} {'predicted (us)':>14} deviation"
    ]
    deviations: dict[tuple[str, int], float] = {}
    for name, nbytes, measured in samples:
        if name == EXCHANGE:
            continue
        algorithm = TABLE["allreduce"][name].algorithm
        predicted = cluster.seconds(algorithm, cluster.ranks, nbytes)
        deviations[name, nbytes] = deviation = predicted / measured - 1
        lines.append(
            f"{name:18} {nbytes:>10} {measured * 1e6:>14.1f} {predicted * 1e6:>14.1f} "
            f"{deviation:>+9.0%}{'' if name in FITTED else '  not fitted to'}"
        )
    name, nbytes = max(deviations, key=lambda key: abs(deviations[key]))
    middle = np.median(np.abs(list(deviations.values())))
    return "\n".join(
        (
            *lines,
            f"# alpha {cluster.alpha * 1e6:.2f} us, beta {cluster.beta * 1e9:.4f} ns/byte, gamma "
            f"{cluster.gamma * 1e9:.4f} ns/byte, overhead {cluster.overhead * 1e6:.2f} us",
            f"# {cluster.ranks} ranks; {cluster.origin}",
            f"# largest deviation {deviations[name, nbytes]:+.0%} ({name}, {nbytes} bytes), "
            f"median {middle:.0%}; over fewer sizes (-b, -e) constants fit better",
        )
    )
