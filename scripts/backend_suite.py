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
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, TypeProto, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import MAX_IR, MAX_OPSET, load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import conflicts, shardable
from rankwise.models.sharding.independent import independent_set
from rankwise.models.sharding.layout import Layout, is_opaque
from rankwise.models.sharding.rules import RULES
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, write_part
from rankwise.runtime.arrays import as_array, as_ortvalue, is_extended

EXCEPTIONS: Mapping[str, str] = {}
"""Reason by case that onnxruntime passes and ranks do not. Empty is the goal."""

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")

FROZEN = (0.2, 0.8)
"""How often the first input becomes a weight, and how often another: sizes are known then."""

TIMEOUT_S = 60.0

SHARDED = Counter[str]()
"""How many models had a node of each operator that ran on parts."""


class Case(NamedTuple):
    """A model of the suite, what to feed it, and what is expected of it."""

    name: str
    model: ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


def cases(kind: str) -> Iterator[Case]:
    """Yield the cases of a kind, in the order of their names."""
    found = load_model_tests(kind="real" if kind == "light" else kind)
    for test in sorted(found, key=lambda test: test.name):
        if kind == "light":
            yield _light(test)
            continue
        model, data = test.model, test.data_sets
        if model is None:
            folder = Path(test.model_dir)
            model = onnx.load(folder / "model.onnx")
            data = [_stored(model, path) for path in sorted(folder.glob("test_data_set_*"))]
        plain = [([*map(_plain, fed)], [*map(_plain, given)]) for fed, given in data]
        yield Case(test.name, _readable(model), plain, test.rtol, test.atol)


def _readable(model: ModelProto) -> ModelProto:
    """Say of a model that it is as old as onnxruntime reads: what the suite expects still counts.

    Most operators got no more than new element types since.
    """
    older = ModelProto()
    older.CopyFrom(model)
    older.ir_version = min(model.ir_version, MAX_IR)
    for entry in older.opset_import:
        if not entry.domain:
            entry.version = min(entry.version, MAX_OPSET)
    return older


def _plain(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _light(test: Any) -> Case:
    """Read a network that lies in onnx itself, with weights that are all alike."""
    path = Path(onnx.__file__).parents[1] / test.url
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    fed = [
        Runner.generate_dummy_data(v, seed=0) for v in model.graph.input if v.name not in weights
    ]
    given = [onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))]
    return Case(test.name, model, [(fed, [*map(_plain, given)])], test.rtol, test.atol)


def _stored(model: ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    ends = (("input", model.graph.input), ("output", model.graph.output))
    fed, given = (
        [
            _parsed((folder / f"{name}_{k}.pb").read_bytes(), value.type)
            for k, value in enumerate(values)
            if (folder / f"{name}_{k}.pb").exists()
        ]
        for name, values in ends
    )
    return fed, given


def _parsed(data: bytes, kind: TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(TensorProto.FromString(data))


class Rep(BackendRep):
    """A model on the ranks of one process."""

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[Any, ...]:
        """Return the outputs of rank 0, and check that no rank gives others."""
        first, *others = self.on_ranks(inputs)
        for outputs in others:
            compare(outputs, first)
        return tuple(first)

    def on_ranks(self, inputs: Sequence[Any]) -> list[list[Any]]:
        feeds = dict(
            zip([value.name for value in self.sharding.graph.inputs], inputs, strict=True)
        )
        with tempfile.TemporaryDirectory() as folder:
            # What no rank communicates in is the whole graph, and one is enough.
            parts = self.sharding.parts if self.collectives else self.sharding.parts[:1]
            for part in parts:
                write_part(self.sharding, part, Path(folder, f"{part.rank}.onnx"), _silent)

            def work(comm: Communicator) -> list[Any]:
                path = Path(folder, f"{comm.rank}.onnx")
                with InferenceSession(path, quiet(), comm=comm) as session:
                    return session.run(None, feeds)

            return local.run(len(parts), work, timeout=TIMEOUT_S)

    @property
    def collectives(self) -> Counter[str]:
        return self.sharding.parts[0].collectives

    @property
    def operators(self) -> set[str]:
        """Operators of which a node runs on parts."""
        layout = self.sharding.choice.layout
        return {
            site.node.op_type
            for site in self.sharding.analysis.sites
            if not layout.sharded.isdisjoint(site.seen) and not is_opaque(site, layout)
        }


class Sharded(Backend):
    """ONNX's view of it: prepare a model, run it."""

    @classmethod
    def prepare(
        cls, model: ModelProto, device: str = "CPU", *, size: int = 2, seed: int = 0, **_: Any
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
        atoms = frozenset(found[k] for k in kept)
        return Rep(Sharding(analysis, Mesh(tp=size), Choice((), Layout(atoms, size), 0.0, ())))


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def stock(model: ModelProto, inputs: Sequence[Any]) -> list[Any]:
    """Run a model in one onnxruntime session."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet())
    feeds = dict(zip([value.name for value in session.get_inputs()], inputs, strict=True))
    if not any(isinstance(x, np.ndarray) and is_extended(x.dtype) for x in inputs):
        try:
            return list(session.run(None, feeds))
        except RuntimeError:
            """An output has a type that numpy has no name for."""
    wrapped = {name: as_ortvalue(array) for name, array in feeds.items()}
    return [*map(as_array, session.run_with_ort_values(None, wrapped))]


def frozen(case: Case, rng: np.random.Generator) -> Case:
    """Make some of the inputs weights: those of the first data set are the values."""
    (fed, given), *_ = case.data
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(4, model.ir_version)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    kept = []
    for value, array in zip(inputs, fed, strict=True):
        kind = value.type.tensor_type.elem_type
        if not kind or rng.random() >= FROZEN[value is not inputs[0]]:
            kept.append(array)
            continue
        tensor = numpy_helper.from_array(np.asarray(array), value.name)
        tensor.data_type = kind
        model.graph.initializer.append(tensor)
        model.graph.input.remove(value)
    return case._replace(model=model, data=[(kept, given)])


def check(case: Case, size: int, seed: int) -> str:
    """Return "ok", "whole" if nothing ran on parts, "stock" where onnxruntime fails, or a fault.

    A fault is a sentence.
    """
    fed, given = case.data[0]
    try:
        wanted = stock(case.model, fed)
        Runner.assert_similar_outputs(given, wanted, max(case.rtol, 1e-3), max(case.atol, 1e-5))
    except Exception:  # it may fail in any way
        return "stock"
    try:
        rep = Sharded.prepare(case.model, size=size, seed=seed)
        compare(rep.run(fed), wanted)
    except Exception as error:
        text = str(error).strip() or repr(error)
        return f"{type(error).__name__}: {text}"
    SHARDED.update(rep.operators)
    return "ok" if rep.operators else "whole"


def compare(got: Any, want: Any) -> None:
    """Raise AssertionError where an output differs: in rounding alone, where it is of floats."""
    if isinstance(want, list | tuple):
        assert len(got) == len(want), f"{len(got)} values, not {len(want)}"
        for a, b in zip(got, want, strict=True):
            compare(a, b)
        return
    if not isinstance(want, np.ndarray):
        assert got == want, f"{got!r}, not {want!r}"
        return
    assert (got.shape, got.dtype) == (want.shape, want.dtype), (
        f"{got.dtype} {got.shape}, not {want.dtype} {want.shape}"
    )
    if want.dtype.kind not in "fc" and not is_extended(want.dtype):
        np.testing.assert_array_equal(got, want)
        return
    is_half = want.dtype == np.float16 or is_extended(want.dtype)
    tolerance = 1e-2 if is_half else 1e-5
    got, want = (x if x.dtype.kind == "c" else x.astype(np.float64) for x in (got, want))
    largest = np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(got, want, rtol=tolerance * 10, atol=tolerance * largest)


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


def answers(case: Case, sizes: Sequence[int], seed: int) -> Iterator[tuple[str, str]]:
    """Yield what each way to run a case gives."""
    seed = zlib.crc32(case.name.encode()) ^ seed
    for size in sizes:
        yield f"on {size} ranks", check(case, size, seed)
        some = frozen(case, np.random.default_rng(seed + size))
        if len(some.model.graph.input) < len(case.model.graph.input):
            yield f"on {size} ranks with weights", check(some, size, seed)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
