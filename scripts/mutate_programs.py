"""Make mistakes in programs of several ranks, and see whether each one is found.

    python scripts/mutate_programs.py --mutants 500 --seed 0

A mistake counts as found if the check before the run names it, if loading or the run itself does,
or if it changes nothing of what is computed. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mutants import mutant
from seed_programs import CONTROL, SEEDS
from verdicts import judge


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="what became of each")
    options = parser.parse_args()
    start, rng = time.perf_counter(), np.random.default_rng(options.seed)
    programs, tally = list({**SEEDS, **CONTROL}.items()), Counter[str]()
    for k in range(options.mutants):
        name, seed = programs[k % len(programs)]
        changed = mutant(seed, rng)
        outcome = judge(seed, changed.models)
        tally[outcome.kind] += 1
        if options.verbose or outcome.kind == "missed":
            print(f"{outcome.kind}: {name}, {changed.text}: {outcome.text.splitlines()[:1]}")
    seconds = time.perf_counter() - start
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.items()))
    print(f"{options.mutants} mutants of {len(programs)} programs in {seconds:.0f} s: {counts}")
    return 1 if tally["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
