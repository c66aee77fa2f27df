"""Measure what sharding reckons with on one core: python scripts/bench_machine.py [MODEL ...]

A product of 256 rows, which multiplies and adds, and one of a single row, which reads its weights,
at matrices of several widths; and operators that do something to each element. All in onnxruntime
with one thread. Prints two markdown tables; or, of models, one of what is predicted for a run and
what it takes, at the sizes that predictions are for: one sentence of 256 tokens.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import Analysis, analyse
from rankwise.models.sharding.machine import HERE
from rankwise.models.sharding.report import whole_work
from rankwise.runtime.arrays import Array
from rankwise.runtime.signature import Value, random_feeds

WIDTHS = (512, 1024, 2048)
LAYERS = {512: 320, 1024: 80, 2048: 20}
"""Products one after another: their weights together are far larger than the caches."""

OPERATORS = {"Add": 2, "Mul": 2, "Softmax": 1, "Sigmoid": 1, "Tanh": 1}
"""Numbers of operands by operator."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    given = parser.parse_args()
    print(f"\n    python {shlex.join(sys.argv)}")
    print(
        f"\nonnxruntime {onnxruntime.__version__}, Python {platform.python_version()}, one "
        f"thread, {datetime.date.today()}\n"
    )
    if given.models:
        predictions(given.models)
        return 0
    products()
    print()
    elements()
    return 0


def predictions(paths: Sequence[Path]) -> None:
    """Compare predictions with runs. Raises SystemExit for a model with states."""
    print("| model | predicted ms | measured ms | upper / lower |\n|---|---|---|---|")
    for path in paths:
        analysis = analyse(load(path))
        if analysis.states:
            raise SystemExit(f"expected a model without states, got {path}: its run has steps too")
        predicted = HERE.computing(whole_work(analysis))
        session = onnxruntime.InferenceSession(path, options())
        low, middle, high = statistics.quantiles(timed(session, feeds(analysis, session)))
        print(
            f"| {path.stem} | {1e3 * predicted:.3g} | {1e3 * middle:.3g} | {high / low:.2f} |",
            flush=True,
        )


def feeds(analysis: Analysis, session: onnxruntime.InferenceSession) -> dict[str, Array]:
    """Draw feeds of the sizes that predictions are for."""
    inputs = [
        Value(value.name, value.type, list(analysis.usual[value.name]))
        for value in session.get_inputs()
    ]
    return random_feeds(inputs, seed=0)


def products() -> None:
    print("| width | rows | multiply-adds a second | bytes of weights a second | upper / lower |")
    print("|---|---|---|---|---|")
    for width in WIDTHS:
        session = onnxruntime.InferenceSession(chain(width).SerializeToString(), options())
        for rows in (256, 1):
            times = timed(session, {"x0": np.ones((rows, width), np.float32)})
            count = LAYERS[width] * width * width
            low, middle, high = statistics.quantiles(times)
            print(
                f"| {width} | {rows} | {count * rows / middle:.2e} | {4 * count / middle:.2e} "
                f"| {high / low:.2f} |"
            )


def elements() -> None:
    """Time operators on 8 heads' scores of 256 by 256."""
    print("| operator | elements a second | upper / lower |\n|---|---|---|")
    x = np.ones((8, 256, 256), np.float32)
    for op_type, count in OPERATORS.items():
        nodes = [helper.make_node(op_type, [f"x{k}"] * count, [f"x{k + 1}"]) for k in range(20)]
        session = onnxruntime.InferenceSession(
            model(nodes, [*x.shape]).SerializeToString(), options()
        )
        low, middle, high = statistics.quantiles(timed(session, {"x0": x}))
        print(f"| {op_type} | {20 * x.size / middle:.2e} | {high / low:.2f} |")


def chain(width: int) -> ModelProto:
    """Return a model of matrix products, each of the one before."""
    rng = np.random.default_rng(0)
    layers = range(LAYERS[width])
    weight = rng.standard_normal((width, width)).astype(np.float32) / width**0.5
    nodes = [helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"]) for k in layers]
    weights = [numpy_helper.from_array(weight, f"w{k}") for k in layers]
    return model(nodes, ["rows", width], weights)


def model(
    nodes: list[NodeProto], shape: list[int | str], weights: Sequence[TensorProto] = ()
) -> ModelProto:
    """Return a model of nodes, each of which takes what the one before makes."""
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def options() -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = 1
    return made


def timed(session: onnxruntime.InferenceSession, fed: dict[str, Array]) -> list[float]:
    times = []
    for _ in range(11):
        start = time.perf_counter()
        session.run(None, fed)
        times.append(time.perf_counter() - start)
    return times[2:]


if __name__ == "__main__":
    sys.exit(main())
