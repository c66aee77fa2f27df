"""A graph as the analysis reads it: sorted nodes, weights apart, no constants, no functions.

`load` accepts what onnxruntime accepts; onnx.checker is not asked, since it refuses graphs
without shapes. What is newer than onnxruntime reads is brought down to what it reads.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    version_converter,
)

from .bodies import bodies, every, unfolded, with_bodies
from .calls import check_recursion, inlined
from .embedding import apart
from .errors import ModelError
from .mesh import Mesh
from .nodes import copied, references
from .ordering import stable_order
from .weights import Weight, initializers

MAX_IR, MAX_OPSET = 13, 26
"""The newest that onnxruntime 1.31 reads; onnx 1.23 writes 14 and 28."""

CLONED_BYTES = 1024
"""Smaller weights get a copy per use: exporters share [-1] and zeros between unrelated places,
and sharing must not tie the dims of unrelated tensors."""


@dataclass(frozen=True)
class Graph:
    """An ONNX graph whose nodes are in an order in which they can run."""

    name: str
    nodes: tuple[NodeProto, ...]
    inputs: tuple[ValueInfoProto, ...]
    """what a run is fed; initializers are not among them"""
    outputs: tuple[ValueInfoProto, ...]
    weights: dict[str, Weight]
    """initializers and constants"""
    value_info: tuple[ValueInfoProto, ...]
    ir_version: int
    opsets: dict[str, int]
    """version by domain; "" is ai.onnx"""
    metadata: dict[str, str]

    @property
    def weight_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.values())


def read(source: str | Path | bytes) -> tuple[ModelProto, Path | None]:
    """Parse a model without its external data; return it and the folder that it lies in.

    Raises ModelError where the file is missing, truncated or no ONNX model, and where a function
    calls itself.
    """
    folder = None
    name = "the model given as bytes"
    if not isinstance(source, bytes):
        path = Path(source)
        folder, name = path.absolute().parent, str(path)
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise ModelError(f"expected an ONNX file, but {name} {what}")
        source = path.read_bytes()
    try:
        model = ModelProto.FromString(source)
    except DecodeError as error:
        raise ModelError(f"{name} is no ONNX model, or it is truncated ({error})") from None
    if not model.graph.output or not model.opset_import:
        raise ModelError(f"{name} is no complete ONNX model: it has no outputs or no opset")
    check_recursion(model)
    return model, folder


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(source: str | Path | bytes | ModelProto) -> Graph:
    """Read a model into a Graph. Raises ModelError."""
    model, folder = (source, None) if isinstance(source, ModelProto) else read(source)
    model = lowered(inlined(model))
    graph = model.graph
    bare = Graph(
        name=graph.name,
        nodes=(),
        inputs=(),
        outputs=tuple(graph.output),
        weights=initializers(graph, folder),
        value_info=tuple(graph.value_info),
        ir_version=min(max(model.ir_version, 8), MAX_IR),
        opsets=opsets(model),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )
    fed = tuple(value for value in graph.input if value.name not in bare.weights)
    outside = (value.name for value in (*fed, *graph.output))
    nodes = unfolded(graph.node, outside, bare.weights, folder)
    return with_nodes(replace(bare, inputs=fed), nodes)


def with_nodes(graph: Graph, nodes: Iterable[NodeProto]) -> Graph:
    """Return a graph with other nodes: put in order, and their constants among its weights."""
    weights = dict(graph.weights)
    listed = _clone_small_weights(_listed(nodes, graph.opsets.get("", 1), weights), weights)
    used = {name for node in listed for name in references(node)}
    used |= {value.name for value in graph.outputs}
    kept = {name: weight for name, weight in weights.items() if name in used}
    return replace(graph, nodes=tuple(listed), weights=kept)


def _listed(
    nodes: Iterable[NodeProto],
    opset: int,
    weights: dict[str, Weight],
    given: Set[str] = frozenset(),
) -> list[NodeProto]:
    """Return nodes in order; constants, but those that a body gives out, go to the weights."""

    def inside(body: GraphProto) -> list[NodeProto]:
        return _listed(body.node, opset, weights, {value.name for value in body.output})

    kept = apart(_without_constants(nodes, weights, given), opset, weights)
    listed = [with_bodies(node, inside) for node in kept]
    return [listed[k] for k in stable_order(listed)]


def opsets(model: ModelProto) -> dict[str, int]:
    """Return the versions of operator sets by domain; "" stands for ai.onnx under both names."""
    return {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version
        for entry in model.opset_import
    }


def mesh_of(model: ModelProto) -> Mesh | None:
    """Return the mesh that a model's metadata say it is made for. Raises MeshError."""
    text = [entry.value for entry in model.metadata_props if entry.key == "rankwise.mesh"]
    return Mesh.parse(text[0]) if text else None


FED_WHOLE = {"rankwise.feeds": "whole"}
"""The metadata of a part of a model that was sharded: every rank is fed what the whole was."""


def is_fed_whole(model: ModelProto) -> bool:
    """Say whether the ranks of a model are all fed the same."""
    ((key, value),) = FED_WHOLE.items()
    return any((entry.key, entry.value) == (key, value) for entry in model.metadata_props)


def lowered(model: ModelProto) -> ModelProto:
    """Return a model whose operators are no newer than onnxruntime reads.

    Raises ModelError where an operator cannot be had in an older form.
    """
    version = opsets(model).get("", 0)
    if version <= MAX_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MAX_OPSET)
    except RuntimeError as error:
        raise ModelError(
            f"expected operators that opset {MAX_OPSET} has, the newest that onnxruntime reads; "
            f"the model is of opset {version}: {' '.join(str(error).split())}"
        ) from error


def _without_constants(
    nodes: Iterable[NodeProto], weights: dict[str, Weight], given: Set[str]
) -> Iterator[NodeProto]:
    """Turn Constant nodes into weights, and yield the others and those of what is `given`."""
    for node in nodes:
        tensor = constant(node) if given.isdisjoint(node.output) else None
        if tensor is None:
            yield node
        else:
            tensor.name = node.output[0]
            weights[tensor.name] = Weight.of(tensor)


def constant(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node makes, None for other nodes and for sparse tensors."""
    if node.op_type != "Constant" or node.domain:
        return None
    (entry,) = node.attribute
    value = helper.get_attribute_value(entry)
    if entry.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(value)
        return tensor
    if entry.name == "sparse_value":
        return None
    kind = TensorProto.FLOAT if "float" in entry.name else TensorProto.INT64
    if "string" in entry.name:
        kind = TensorProto.STRING
    several = entry.name.endswith("s")
    shape = [len(value)] if several else []
    return helper.make_tensor("", kind, shape, value if several else [value])


def _clone_small_weights(nodes: list[NodeProto], weights: dict[str, Weight]) -> list[NodeProto]:
    uses = Counter(name for node in every(nodes) for name in _reads(node))
    small = {
        name
        for name, weight in weights.items()
        if uses[name] > 1 and weight.shape and weight.nbytes < CLONED_BYTES
    }
    return [_with_own_copies(node, small, weights) for node in nodes]


def _reads(node: NodeProto) -> Iterable[str]:
    return node.input if bodies(node) else references(node)


def _with_own_copies(node: NodeProto, small: set[str], weights: dict[str, Weight]) -> NodeProto:
    node = with_bodies(node, lambda b: [_with_own_copies(n, small, weights) for n in b.node])
    if not small.intersection(node.input):
        return node
    changed = copied(node)
    for position, name in enumerate(node.input):
        if name in small:
            own = f"{name}/{node.output[0]}.{position}"
            weights[own] = replace(weights[name], name=own)
            changed.input[position] = own
    return changed
