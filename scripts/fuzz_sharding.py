"""Shard random small graphs, and compare them with the whole graph on onnxruntime.

    python scripts/fuzz_sharding.py --graphs 500 --seed 0
    python scripts/fuzz_sharding.py --first 17 --graphs 1 --seed 0 --sizes 3 --save /tmp/found

A graph is drawn from the seed and its number, by tests/fuzz; the sizes take turns. Where ranks
answer otherwise, the arguments that repeat it are printed. Exit code 1 if any does.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz import Checked, Drawn, check, draw
from ranks import operators

from rankwise.models.sharding.rules import RULES


@dataclass
class Tally:
    """What was drawn, and what ran on parts."""

    graphs: int = 0
    layouts: int = 0
    differing: int = 0
    drawn: set[tuple[str, str]] = field(default_factory=set)
    parted: set[tuple[str, str]] = field(default_factory=set)
    """domains and operators"""

    def add(self, graph: Drawn, checked: Checked) -> None:
        self.graphs += 1
        self.layouts += checked.layouts
        self.differing += bool(checked.differences)
        self.drawn |= operators(graph.model)
        self.parted |= checked.operators

    def show(self, seconds: float, is_verbose: bool) -> None:
        print(f"{self.graphs} graphs, {self.layouts} layouts, {seconds:.0f} s")
        known = {("", op_type) for op_type in RULES}
        print(f"of {len(known)} operators with a rule {len(known & self.drawn)} were drawn")
        print(f"{len(self.parted)} operators ran on parts, {self.differing} graphs differ")
        if is_verbose:
            print("never drawn:", *sorted(op for _, op in known - self.drawn))
            print("never on parts:", *sorted(op for _, op in known & self.drawn - self.parted))


def main() -> int:
    given = arguments()
    start, tally = time.perf_counter(), Tally()
    numbers = range(given.first, given.first + given.graphs)
    for number in track(numbers, "graphs", console=Console(stderr=True)):
        size = given.sizes[number % len(given.sizes)]
        graph = draw(given.seed, number)
        checked = check(graph, size, np.random.default_rng((given.seed, number, size)))
        tally.add(graph, checked)
        if checked.differences:
            print(f"--first {number} --graphs 1 --seed {given.seed} --sizes {size}")
            print(*(f"    {text}" for text in checked.differences), sep="\n", flush=True)
            if given.save:
                save(graph, given.save / f"{given.seed}-{number}")
    tally.show(time.perf_counter() - start, given.verbose)
    return 1 if tally.differing else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--graphs", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--sizes", type=int, nargs="+", default=(2, 3, 4), help="ranks, in turn")
    parser.add_argument("--save", type=Path, metavar="DIR", help="for graphs that differ")
    parser.add_argument("-v", dest="verbose", action="store_true", help="name what never ran")
    return parser.parse_args()


def save(graph: Drawn, place: Path) -> None:
    """Write a graph, and what is fed to it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph.model, place.with_suffix(".onnx"))
    for k, feeds in enumerate(graph.feeds):
        arrays: dict[str, Any] = feeds
        np.savez(place.with_name(f"{place.name}-{k}.npz"), **arrays)


if __name__ == "__main__":
    sys.exit(main())
