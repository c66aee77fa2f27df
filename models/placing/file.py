"""The graph of one rank as a file, its weights beside it."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

from ..graph import MAX_IR, Graph
from ..opset import DOMAIN, VERSION
from ..sharding.part import Part
from ..weights import WeightFile


def write(graph: Graph, part: Part, size: int, path: Path) -> None:
    """Write the part of one of `size` ranks of a graph; weights are read one at a time."""
    initializers = list[TensorProto]()
    with WeightFile(path.with_suffix(".data")) as file:
        for name, held in part.held.items():
            initializers.append(file.append(name, held.weight.read(held.kept)))
        for name, weight in part.constants.items():
            initializers.append(file.append(name, weight.read()))
    body = helper.make_graph(
        part.nodes, graph.name or "model", graph.inputs, graph.outputs, initializers
    )
    body.value_info.extend(part.value_info.values())
    opsets = graph.opsets | {DOMAIN: VERSION}
    model = helper.make_model(
        body,
        ir_version=min(graph.ir_version, MAX_IR),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        producer_name="rankwise",
    )
    own = {"rankwise.mesh": f"tp={size}", "rankwise.rank": str(part.rank)}
    helper.set_model_props(model, graph.metadata | own)
    path.write_bytes(model.SerializeToString())
