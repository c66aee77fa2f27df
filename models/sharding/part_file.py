"""The graph of one rank as a file, its weights beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from ..graph import FED_WHOLE, MAX_IR, Graph
from ..opset import DOMAIN, VERSION
from ..plan import sealed
from ..states import to_metadata
from ..weights import Array, WeightFile
from .part import Held, Part

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""


def silent(done: int, total: int) -> None:
    """Show no progress."""


def write_parts(
    graph: Graph, places: Mapping[Path, Part], own: dict[str, str], progress: Progress = silent
) -> None:
    """Write the graphs of ranks, and their weights beside them, one at a time.

    All ranks' parts of a weight are written before the next one, so that a model larger than
    memory is read from the disk once. `own` is kept with each graph, beside what the whole one
    keeps.
    """
    done, total = 0, sum(part.weight_bytes for part in places.values())
    with ExitStack() as stack:
        initializers = dict[Path, list[TensorProto]]()
        files = dict[Path, WeightFile]()
        for path in places:
            initializers[path] = []
            files[path] = stack.enter_context(WeightFile(path.with_suffix(".data")))
        for path, name, array in _arrays(places):
            initializers[path].append(files[path].append(name, array))
            done += array.nbytes
            progress(done, total)
    for path, part in places.items():
        path.write_bytes(_model(graph, part, own, initializers[path]).SerializeToString())


def _arrays(places: Mapping[Path, Part]) -> Iterator[tuple[Path, str, Array]]:
    """Yield what each rank holds, by the weight that it is of."""
    holders: dict[str, list[tuple[Path, str, Held]]] = {}
    for path, part in places.items():
        for name, held in part.held.items():
            holders.setdefault(held.weight.name, []).append((path, name, held))
    for several in holders.values():
        for path, name, held in several:
            yield path, name, held.weight.read(held.kept)
    for path, part in places.items():
        for name, weight in part.constants.items():
            yield path, name, weight.read()


def _model(
    graph: Graph, part: Part, own: dict[str, str], initializers: list[TensorProto]
) -> ModelProto:
    """Return a rank's model, under the seal of its plan."""
    opsets = graph.opsets | ({DOMAIN: VERSION} if part.collectives else {})
    body = helper.make_graph(
        part.nodes, graph.name or "model", graph.inputs, graph.outputs, initializers
    )
    body.value_info.extend(part.value_info.values())
    model = helper.make_model(
        body,
        ir_version=min(graph.ir_version, MAX_IR),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        producer_name="rankwise",
    )
    rank = {"rankwise.rank": str(part.rank)}
    kept = graph.metadata | own | rank | FED_WHOLE | to_metadata(part.states)
    helper.set_model_props(model, kept)
    return sealed(model)
