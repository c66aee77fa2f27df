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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnxruntime.capi import onnxruntime_pybind11_state as errors

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ranks
from comparison import assert_same

from rankwise.models.graph import MAX_IR, MAX_OPSET, load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.candidates import conflicts, shardable
from rankwise.models.sharding.independent import independent_set
from rankwise.models.sharding.rules import RULES
from rankwise.models.sharding.write import Sharding
from rankwise.runtime.arrays import EXTENDED, as_array, as_ortvalue, is_extended

EXCEPTIONS: Mapping[str, str] = {}
"""Reason by case that onnxruntime passes and ranks do not. Empty is the goal."""

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")

FROZEN = (0.2, 0.8)
"""How often the first input becomes a weight, and how often another: sizes are known then."""

WIDER = {
    TensorProto.INT2: TensorProto.INT8, TensorProto.INT4: TensorProto.INT8,
    TensorProto.UINT2: TensorProto.UINT8, TensorProto.UINT4: TensorProto.UINT8,
    TensorProto.FLOAT4E2M1: TensorProto.FLOAT,
}  # fmt: skip
"""By an element type that onnxruntime gives no array of to Python, one that holds its values."""

REFUSALS = (
    errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented,
    errors.RuntimeException,
)  # fmt: skip
"""What onnxruntime raises of a model that it cannot run; they have no base of their own."""

Seed = int | Sequence[int]

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
        return Rep(ranks.cut_along(analysis, [found[k] for k in kept], size))


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


def frozen(case: Case, is_weight: Callable[[int, Any], bool]) -> Case:
    """Make some of the inputs weights: those of the first data set are the values."""
    (fed, given), *_ = case.data
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(4, model.ir_version)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    kept = []
    for number, (value, array) in enumerate(zip(inputs, fed, strict=True)):
        kind = value.type.tensor_type.elem_type
        if not kind or not is_weight(number, array):
            kept.append(array)
            continue
        tensor = numpy_helper.from_array(np.asarray(array), value.name)
        tensor.data_type = kind
        model.graph.initializer.append(tensor)
        model.graph.input.remove(value)
    return case._replace(model=model, data=[(kept, given)])


def is_unknown(dtype: np.dtype[Any]) -> bool:
    """Say whether onnxruntime takes no array of an element type from Python."""
    return is_extended(dtype) and all(dtype != known for _, known in EXTENDED.values())


def feedable(case: Case) -> Case:
    """Make weights of what cannot be fed, and wider integers of what cannot be taken."""
    made = frozen(case, lambda _, array: is_unknown(np.asarray(array).dtype))
    ((fed, given),), widened = made.data, list[Any]()
    for value, array in zip(made.model.graph.output, given, strict=True):
        kind = value.type.tensor_type.elem_type
        if kind in WIDER:
            name, value.name = value.name, f"{value.name}_wider"
            value.type.tensor_type.elem_type = WIDER[kind]
            node = helper.make_node("Cast", [name], [value.name], to=WIDER[kind])
            made.model.graph.node.append(node)
            array = array.astype(helper.tensor_dtype_to_np_dtype(WIDER[kind]))
        widened.append(array)
    return made._replace(data=[(fed, widened)])


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
