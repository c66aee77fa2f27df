"""How long the proof before a run takes, on a graph of many nodes and communications.

    python scripts/bench_check.py
    mpirun -n 8 python scripts/bench_check.py --load    # sessions on ranks, proof included

Blocks of Tanh and of Reshape to a constant. Of every four, two end with an AllReduce, one with a
Send to the next rank, and one with the Recv of it. Every rank has a graph of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from rankwise.models.builder import IR_VERSION, OPSET, Builder
from rankwise.models.check import check
from rankwise.models.graph import read
from rankwise.models.plan import build_plan

WIDTH = 16


def graph(rank: int, ranks: int, nodes: int, communications: int) -> onnx.ModelProto:
    """Return the graph of one rank, which has so many nodes, of which so many communicate."""
    build = Builder("many")
    x = build.input("x", np.float32, ["n", WIDTH])
    ends = [build.constant((rank + step) % ranks) for step in (1, -1)]
    shape = build.constant([0, -1])
    between = nodes // communications - 1
    for k in range(communications):
        for j in range(between):
            with build.scope(f"{k}.{j}"):
                x = build.op("Reshape", x, shape) if j % 3 == 2 else build.op("Tanh", x)
        x = communicate(build, k, x, ends)
    build.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(node.output[0], 1, ["n", WIDTH])
        for node in build.graph.node
        if node.output
    )
    for _ in range(nodes - len(build.graph.node)):
        x = build.op("Neg", x)
    build.output(x, np.float32, ["n", WIDTH])
    imports = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("rankwise", 1)]
    return onnx.helper.make_model(build.graph, opset_imports=imports, ir_version=IR_VERSION)


def communicate(build: Builder, k: int, x: str, ends: list[str]) -> str:
    """Add what block k ends with: of every four two AllReduces, a Send, and its Recv."""
    if k % 4 == 2:
        node = onnx.helper.make_node("Send", [x, ends[0]], [], f"send{k}", domain="rankwise")
        build.graph.node.append(node)
        return x
    if k % 4 == 3:
        return build.op("Recv", ends[1], dtype=1, domain="rankwise")
    return build.op("AllReduce", x, domain="rankwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--communications", type=int, default=2_000)
    parser.add_argument("-n", dest="ranks", type=int, default=8)
    parser.add_argument("--load", action="store_true", help="make sessions, under mpirun")
    options = parser.parse_args()
    if options.load:
        load(options.nodes, options.communications)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"rank{rank}.onnx" for rank in range(options.ranks)]
        for rank, path in enumerate(paths):
            onnx.save(graph(rank, options.ranks, options.nodes, options.communications), path)
        times = [clocks()]
        models = [read(path)[0] for path in paths]
        times.append(clocks())
        plans = [build_plan(model) for model in models]
        times.append(clocks())
        verdict = check(plans)
        times.append(clocks())
    print(f"{options.ranks} ranks, each {options.nodes} nodes, of which {options.communications}")
    print("communicate; seconds for all ranks in one process (of the processor):")
    for name, start, end in zip(("read", "plan", "check"), times, times[1:], strict=False):
        print(f"{name:9}{end[0] - start[0]:6.2f} ({end[1] - start[1]:.2f})")
    print(f"together {times[-1][0] - times[0][0]:6.2f} ({times[-1][1] - times[0][1]:.2f})")
    print(verdict)


def clocks() -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    return time.perf_counter(), time.process_time()


def load(nodes: int, communications: int) -> None:
    """Make a session on each rank, and print what it took."""
    from rankwise import InferenceSession
    from rankwise.collectives import Communicator

    with Communicator.world() as comm:
        model = graph(comm.rank, comm.size, nodes, communications).SerializeToString()
        comm.barrier()
        start = clocks()
        session = InferenceSession(model, comm=comm)
        comm.barrier()
        wall, processor = (b - a for a, b in zip(start, clocks(), strict=True))
        total = float(comm.allreduce(np.array([processor]))[0])
        if comm.rank == 0:
            print(f"{comm.size} sessions made and checked in {wall:.2f} s ({total:.2f} of all)")
        session.close()


if __name__ == "__main__":
    main()
