"""Fragments on onnxruntime: one session for each run of compute nodes of a plan.

A fragment's model holds its nodes and the initializers that they read; those in external files
stay there, so that onnxruntime maps them and the ranks of a node share the pages. Inputs get the
types that earlier sessions and collectives gave, so that nothing has to be inferred.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime
from onnx import (
    GraphProto,
    ModelProto,
    SparseTensorProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
)

from ..models.errors import ModelError
from ..models.graph import MAX_IR, opsets
from ..models.nodes import references
from ..models.opset import DOMAIN
from ..models.plan import Compute
from .arrays import EXTENDED, as_array, as_ortvalue

Types = dict[str, TypeProto]

SLICE_KEEPS_NAMES = 10
"""The opset in which a slice is told to be as long as what it is cut from, if that has a name; it
then gets the memory of something longer."""

FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class Fragment:
    """One session, and the names of what goes in and comes out."""

    session: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_extended: bool
    """something that goes in or out is of an element type that numpy does not name"""

    @classmethod
    def of(cls, session: onnxruntime.InferenceSession, step: Compute) -> Fragment:
        """Wrap a session that computes `step`."""
        ends = [*session.get_inputs(), *session.get_outputs()]
        extended = any(value.type in {f"tensor({name})" for name in EXTENDED} for value in ends)
        return cls(session, step.inputs, step.outputs, extended)

    def run(self, values: Mapping[str, Any], options: onnxruntime.RunOptions | None) -> list[Any]:
        """Compute the outputs; arrays go in and come out without a copy."""
        feeds = {name: values[name] for name in self.inputs}
        if not self.is_extended:
            outputs: list[Any] = self.session.run(self.outputs, feeds, options)
            return outputs
        wrapped = {name: as_ortvalue(array) for name, array in feeds.items()}
        made = self.session.run_with_ort_values(self.outputs, wrapped, options)
        return [as_array(value) for value in made]


class Source(NamedTuple):
    """A model, and what its graph declares, by name: fragments are many, and graphs long."""

    model: ModelProto
    values: Mapping[str, ValueInfoProto]
    tensors: Mapping[str, TensorProto]
    sparse: Mapping[str, SparseTensorProto]

    @classmethod
    def of(cls, model: ModelProto) -> Source:
        graph = model.graph
        return cls(
            model,
            {value.name: value for value in graph.value_info},
            {tensor.name: tensor for tensor in graph.initializer},
            {tensor.values.name: tensor for tensor in graph.sparse_initializer},
        )


def fragment(
    source: Source,
    step: Compute,
    types: Types,
    options: onnxruntime.SessionOptions,
    providers: Sequence[Any],
) -> Fragment:
    """Make one session, and add the types of its outputs to `types`."""
    model = _model(source, step, types)
    session = open_session(model.SerializeToString(), options, providers)
    for value in session.get_outputs():
        types[value.name] = parse_type(value.type, value.shape)
    return Fragment.of(session, step)


def _model(source: Source, step: Compute, types: Types) -> ModelProto:
    model = source.model
    nodes = [model.graph.node[k] for k in step.nodes]
    read = dict.fromkeys(name for node in nodes for name in references(node))
    given = set(step.outputs)
    inner = [name for node in nodes for name in node.output if name not in given]
    graph = helper.make_graph(
        nodes,
        model.graph.name or "fragment",
        [ValueInfoProto(name=name, type=types[name]) for name in step.inputs],
        [source.values.get(name, ValueInfoProto(name=name)) for name in step.outputs],
        [source.tensors[name] for name in read if name in source.tensors],
        sparse_initializer=[source.sparse[name] for name in read if name in source.sparse],
        value_info=[source.values[name] for name in inner if name in source.values],
    )
    versions = dict.fromkeys((n.domain for n in nodes), 1) | opsets(model)
    versions.pop(DOMAIN, None)
    if versions.get("") == SLICE_KEEPS_NAMES and any(node.op_type == "Slice" for node in nodes):
        _forget_names(graph)
    return helper.make_model(
        graph,
        ir_version=min(model.ir_version, MAX_IR),
        # onnxruntime's own operators are often used without an import of their domain.
        opset_imports=[
            helper.make_opsetid(domain, version) for domain, version in versions.items()
        ],
        functions=list(model.functions),
    )


def _forget_names(graph: GraphProto) -> None:
    """Leave all dims open that have a name."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")


def take_weights_from(folder: Path | None, options: onnxruntime.SessionOptions) -> None:
    """Say in options where external data lies; None: beside the model.

    A session that had the options before may have said another folder.
    """
    try:
        said = options.get_session_config_entry(FOLDER)
    except RuntimeError:
        said = ""
    wanted = "" if folder is None else str(folder)
    if said != wanted:
        options.add_session_config_entry(FOLDER, wanted)


def open_session(
    model: bytes | str, options: onnxruntime.SessionOptions, providers: Sequence[Any]
) -> onnxruntime.InferenceSession:
    """Make a session. Raises ModelError with the first line of what onnxruntime says."""
    try:
        # Its fallback would print to stdout, and try the same once more.
        return onnxruntime.InferenceSession(
            model, options, providers=list(providers), enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of a message, or the error's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def parse_type(text: str, shape: Sequence[int | str | None] = ()) -> TypeProto:
    """Read onnxruntime's name of a type, such as tensor(float) or seq(tensor(int64)).

    onnxruntime gives a scalar and a tensor of unknown rank the same empty shape: taken as unknown.
    """
    found = re.fullmatch(r"(\w+)\((.*)\)", text)
    if found is None:
        raise ModelError(f"expected a type such as tensor(float), got {text!r}")
    outer, inner = found.groups()
    if outer == "seq":
        return helper.make_sequence_type_proto(parse_type(inner))
    if outer == "optional":
        return helper.make_optional_type_proto(parse_type(inner))
    if outer == "map":
        key, _, value = inner.partition(",")
        return helper.make_map_type_proto(_element(key), parse_type(value.strip()))
    make = helper.make_sparse_tensor_type_proto
    if outer == "tensor":
        make = helper.make_tensor_type_proto
    return make(_element(inner), list(shape) or None)


def _element(name: str) -> int:
    return int(TensorProto.DataType.Value(name.upper()))
