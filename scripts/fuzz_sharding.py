"""Shard random small graphs, and compare them with the whole graph on onnxruntime.

    python scripts/fuzz_sharding.py --graphs 2000 --seed 0
    python scripts/fuzz_sharding.py --first 17 --graphs 1 --seed 0 --sizes 3 --save /tmp/found

A graph is drawn from the seed and its number, by tests/fuzz; the sizes take turns. Where ranks
answer otherwise, the line that repeats it is printed. Exit code 1 if any does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz import Checked, Drawn, check, draw

from rankwise.models.sharding.rules import RULES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--graphs", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--sizes", type=int, nargs="+", default=(2, 3, 4), help="ranks, in turn")
    parser.add_argument("--save", type=Path, metavar="DIR", help="for graphs that differ")
    parser.add_argument("-v", dest="verbose", action="store_true", help="name what never ran")
    given = parser.parse_args()
    console, start = Console(stderr=True), time.perf_counter()
    found, drawn, parted = Counter[str](), set[str](), set[str]()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console) as progress:
        for number in progress.track(
            range(given.first, given.first + given.graphs), description="graphs"
        ):
            size = given.sizes[number % len(given.sizes)]
            graph = draw(given.seed, number)
            checked = check(graph, size, np.random.default_rng((given.seed, number, size)))
            found.update(graphs=1, layouts=checked.layouts)
            drawn |= {node.op_type for node in graph.model.graph.node}
            parted |= checked.operators
            if checked.differences:
                found.update(differences=1)
                report(checked, given.seed, number, size)
                if given.save:
                    save(graph, given.save / f"{given.seed}-{number}")
    seconds = time.perf_counter() - start
    print(f"{found['graphs']} graphs, {found['layouts']} layouts, {seconds:.0f} s")
    print(f"{len(RULES.keys() & drawn)} of {len(RULES)} operators drawn, {len(parted)} on parts")
    print(f"{found['differences']} graphs differ")
    if given.verbose:
        print("never drawn:", ", ".join(sorted(RULES.keys() - drawn)))
        print("never on parts:", ", ".join(sorted(RULES.keys() & (drawn - parted))))
    return 1 if found["differences"] else 0


def report(checked: Checked, seed: int, number: int, size: int) -> None:
    """Print what differs, and how to see it again."""
    print(f"--first {number} --graphs 1 --seed {seed} --sizes {size}", flush=True)
    for text in checked.differences:
        print(f"    {text}", flush=True)


def save(graph: Drawn, place: Path) -> None:
    """Write a graph, and what is fed to it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph.model, place.with_suffix(".onnx"))
    for k, feeds in enumerate(graph.feeds):
        np.savez(place.with_name(f"{place.name}-{k}.npz"), **feeds)


if __name__ == "__main__":
    sys.exit(main())
