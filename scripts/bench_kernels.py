"""Time reductions of float16 and bfloat16 beside numpy's of float32: bench_kernels.py

Prints a markdown table: by how much a kernel takes longer than numpy does in float32 for as many
elements, each in its tiles, and in brackets the ratio of the upper to the lower
quartile. Calls alternate in one process, in an order that turns round every time.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import platform
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime

from rankwise.collectives.kernels import (
    HAS_NUMBA,
    KERNELS,
    TILE,
    Kernel,
    compiled,
    extreme_half,
    half_in_float32,
    in_float32,
)
from rankwise.collectives.reduction import Reduction
from rankwise.runtime.kernels import OPERATORS, combine
from rankwise.runtime.kernels import TILE as LONG_TILE

COUNTS = [4 << 10, 64 << 10, 1 << 20]  # elements
OPS = {"sum": np.add, "prod": np.multiply, "max": np.maximum}
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operands", type=int, default=2, help="to combine by Reduction.many")
    parser.add_argument("--repetitions", type=int, default=41, help="of every call")
    given = parser.parse_args()
    print(f"\n    python {shlex.join(sys.argv)}")
    print(
        f"\n{given.operands} operands, numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}, "
        f"{datetime.date.today()}\n"
    )
    print(f"| kernel | {' | '.join(f'{count >> 10} Ki' for count in COUNTS)} |")
    print("|---" * (len(COUNTS) + 1) + "|")
    columns = [measured(calls(count, given.operands), given.repetitions) for count in COUNTS]
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


def calls(count: int, operands: int) -> dict[str, Call]:
    """Ways to reduce so many elements, the first of them float32."""
    values = np.random.default_rng(0).uniform(0.9, 1.1, (operands, count)).astype(np.float32)
    found = {"float32 sum": reducing(Reduction("sum", np.add), values)}
    found["float32 sum again"] = reducing(Reduction("sum", np.add), values)
    for dtype in DTYPES:
        x = values.astype(DTYPES[dtype])
        for op, ufunc in OPS.items():
            found[f"{dtype} {op}, plain numpy"] = reducing(Reduction(op, ufunc), x)
            for name, kernel in implementations(op, dtype).items():
                found[f"{dtype} {op}, {name}"] = reducing(
                    Reduction(op, kernel.function, tile=kernel.tile, rounds=kernel.rounds), x
                )
    return found


def implementations(op: str, dtype: str) -> dict[str, Kernel]:
    """All kernels for an operation, whichever would be taken."""
    is_half = dtype == "float16"
    ours = in_float32
    if is_half:
        ours = extreme_half if op == "max" else half_in_float32
    found = {
        "numpy kernel": KERNELS[op, dtype]._replace(function=functools.partial(ours, OPS[op]))
    }
    if is_half and op in OPERATORS:
        function = functools.partial(combine, OPERATORS[op])
        found["onnxruntime"] = Kernel(function, tile=LONG_TILE)
    if HAS_NUMBA:
        found["numba"] = Kernel(functools.partial(compiled, op), tile=TILE)
    return found


def reducing(how: Reduction, operands: np.ndarray[tuple[int, int], np.dtype[Any]]) -> Call:
    """The call that reduces the rows to a new array, which it keeps."""
    rows, out = list(operands), np.empty_like(operands[0])
    return lambda: how.many(rows, out)


def measured(found: dict[str, Call], repetitions: int) -> dict[str, str]:
    """The median of each call over that of the first, and its spread."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for call in found.values():
        call()  # compiles
    for turn in range(repetitions):
        for name in found if turn % 2 else reversed(found):
            call = found[name]
            call()  # its operands to the cache, where they fit
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    quartiles = {name: np.quantile(taken, [0.25, 0.5, 0.75]) for name, taken in times.items()}
    base = next(iter(quartiles.values()))[1]
    return {
        name: f"{middle / base:.2f} ({upper / lower:.1f})"
        for name, (lower, middle, upper) in quartiles.items()
    }


if __name__ == "__main__":
    main()
