"""Run ONNX's backend suite sharded over ranks of one process, against one onnxruntime session.

    python scripts/backend_suite.py --ranks 2 3 --seed 0
    python scripts/backend_suite.py --kind node --shard 0/4 -k softmax

Every case runs as it is, and with some of its inputs, drawn from the seed, made weights. Of the
axes that may be cut, a largest compatible set is, drawn from the seed too. A case counts if stock
onnxruntime gives what the suite expects; then every rank must give what onnxruntime gives. Exit
code 1 if any does not, but for what EXCEPTIONS names.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner
from onnxruntime.capi import onnxruntime_pybind11_state as errors

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ranks
from backend_cases import KINDS, Case, cases, feedable, frozen
from comparison import assert_same

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import conflicts, shardable
from rankwise.models.sharding.independent import independent_set
from rankwise.models.sharding.rules import RULES
from rankwise.models.sharding.write import Sharding
from rankwise.runtime.arrays import as_array, as_ortvalue, is_extended

EXCEPTIONS: Mapping[str, str] = {}
"""Reason by case that onnxruntime passes and ranks do not. Empty is the goal."""

FROZEN = (0.2, 0.8)
"""How often the first input becomes a weight, and how often another: sizes are known then."""

REFUSALS = (
    errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented,
    errors.RuntimeException,
)  # fmt: skip
"""What onnxruntime raises of a model that it cannot run; they have no base of their own."""

Seed = int | Sequence[int]

SHARDED = Counter[str]()
"""How many models had a node of each operator that ran on parts."""


class Rep(BackendRep):
    """A model on the ranks of one process."""

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[Any, ...]:
        """Return the outputs of rank 0, and check that no rank gives others."""
        first, *others = self.on_ranks(inputs)
        for outputs in others:
            assert_same(outputs, first)
        return tuple(first)

    def on_ranks(self, inputs: Sequence[Any]) -> list[list[Any]]:
        names = [value.name for value in self.sharding.graph.inputs]
        feeds = dict(zip(names, inputs, strict=True))
        with tempfile.TemporaryDirectory() as folder:
            return ranks.run(self.sharding, feeds, Path(folder))

    @property
    def operators(self) -> set[str]:
        """Operators of ai.onnx of which a node runs on parts."""
        return {op_type for domain, op_type in ranks.on_parts(self.sharding) if not domain}


class Sharded(Backend):
    """ONNX's view of it: prepare a model, run it."""

    @classmethod
    def prepare(
        cls, model: ModelProto, device: str = "CPU", *, size: int = 2, seed: Seed = 0, **_: Any
    ) -> Rep:
        """Shard a model over `size` ranks along axes drawn from the seed."""
        analysis = analyse(load(model))
        rng = np.random.default_rng(seed)
        found = [
            atom
            for atom, _, sites in shardable(analysis, size)
            if any(atom not in site.whole_atoms for site in sites)
        ]
        kept = independent_set(rng.random(len(found)).tolist(), conflicts(analysis, found))
        cut = ranks.cut_along(analysis, [found[k] for k in kept], size)
        return Rep(ranks.on_rows(cut, rng))


def stock(model: ModelProto, inputs: Sequence[Any]) -> list[Any]:
    """Run a model in one onnxruntime session."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), ranks.quiet())
    feeds = dict(zip([value.name for value in session.get_inputs()], inputs, strict=True))
    if not any(isinstance(x, np.ndarray) and is_extended(x.dtype) for x in inputs):
        try:
            return list(session.run(None, feeds))
        except RuntimeError:
            """An output has a type that numpy has no name for."""
    wrapped = {name: as_ortvalue(array) for name, array in feeds.items()}
    return [*map(as_array, session.run_with_ort_values(None, wrapped))]


def check(case: Case, size: int, seed: Seed) -> str:
    """Return "ok", "whole" if nothing ran on parts, "stock" where onnxruntime fails, or a fault.

    A fault is a sentence.
    """
    fed, given = case.data[0]
    try:
        wanted = stock(case.model, fed)
        outputs = [*_leaves(given)], [*_leaves(wanted)]
        Runner.assert_similar_outputs(*outputs, max(case.rtol, 1e-3), max(case.atol, 1e-5))
    except (*REFUSALS, AssertionError):
        return "stock"
    except Exception as error:
        return f"before a layout: {error!r}"
    try:
        rep = Sharded.prepare(case.model, size=size, seed=seed)
        assert_same(list(rep.run(fed)), wanted)
    except Exception as error:
        text = str(error).strip() or repr(error)
        return f"{type(error).__name__}: {text}"
    SHARDED.update(rep.operators)
    return "ok" if rep.operators else "whole"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--ranks", nargs="+", type=int, default=(2, 3))
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--shard", default="0/1", help="k/n: every n-th case from the k-th on")
    parser.add_argument("-k", dest="part", default="", help="cases whose name has this part")
    parser.add_argument("-v", dest="verbose", action="store_true", help="name every case")
    given = parser.parse_args()
    first, step = map(int, given.shard.split("/"))
    start, counts, faults = time.perf_counter(), Counter[str](), 0
    for kind in given.kind:
        named = [case for case in cases(kind) if given.part in case.name][first::step]
        for case in named:
            for label, answer in answers(case, given.ranks, given.seed):
                is_fault = answer not in ("ok", "whole", "stock")
                counts["fault" if is_fault else answer] += 1
                if is_fault and case.name not in EXCEPTIONS:
                    faults += 1
                    print(f"{case.name} {label}: {answer[:600]}\n", flush=True)
                elif given.verbose:
                    print(f"{case.name} {label}: {answer[:100]}", flush=True)
    seconds = time.perf_counter() - start
    print(", ".join(f"{count} {answer}" for answer, count in sorted(counts.items())))
    print(f"{faults} faults, {len(SHARDED)} operators ran on parts, {seconds:.0f} s")
    if given.verbose:
        print("never did:", ", ".join(sorted(set(RULES) - set(SHARDED))))
    return 1 if faults else 0


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the arrays of outputs that may be sequences; onnx cannot compare one of scalars."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def answers(case: Case, sizes: Sequence[int], seed: int) -> Iterator[tuple[str, str]]:
    """Yield what each way to run a case gives."""
    case = feedable(case)
    for size in sizes:
        draws = (zlib.crc32(case.name.encode()), seed, size)
        yield f"on {size} ranks", check(case, size, draws)
        rng = np.random.default_rng(draws)
        some = frozen(case, lambda number, _, rng=rng: rng.random() < FROZEN[number > 0])
        if len(some.model.graph.input) < len(case.model.graph.input):
            yield f"on {size} ranks with weights", check(some, size, draws)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
