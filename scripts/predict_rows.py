"""Show what sequence parallelism is predicted to save: python scripts/predict_rows.py MODEL.onnx

Each rank's elements and bytes of a run with so many tokens, where all between sums runs whole, and
where regions run on rows as `rankwise shard` would choose for a model of that fixed length.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ValueInfoProto

from rankwise.models.graph import Graph, load
from rankwise.models.sharding import plan
from rankwise.models.sharding.plan import Sharding
from rankwise.models.sharding.prediction import predict, rank_work
from rankwise.models.sharding.sequence import without_regions
from rankwise.models.table import aligned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4])
    given = parser.parse_args()
    graph = of_length(load(given.model), given.tokens)
    heads = "ranks", "between sums", "collectives", "multiply-adds", "elements", "bytes sent", "ms"
    rows: list[Sequence[object]] = [heads]
    for size in given.sizes:
        chosen = plan(graph, f"tp={size}")
        whole = replace(chosen, choice=without_regions(chosen.choice))
        rows += [row(size, "whole", whole), row(size, "as chosen", chosen)]
    print(aligned(rows))


def of_length(graph: Graph, tokens: int) -> Graph:
    """Return a graph of one sequence of so many tokens."""
    inputs = [ValueInfoProto.FromString(value.SerializeToString()) for value in graph.inputs]
    for value in inputs:
        for k, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_value = tokens if k else 1
    return replace(graph, inputs=tuple(inputs))


def row(size: int, name: str, sharding: Sharding) -> tuple[object, ...]:
    work, counts = rank_work(sharding, 0), sharding.collectives
    calls = ", ".join(f"{count} {op}" for op, count in counts.items())
    sent, seconds = round(sharding.parts[0].sent), predict(sharding).seconds
    return (
        size,
        name,
        calls,
        round(work.multiply_adds),
        round(work.made),
        sent,
        f"{1e3 * seconds:,.1f}",
    )


if __name__ == "__main__":
    main()
