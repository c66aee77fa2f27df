"""What a node makes of what is known: types, shapes and small values, without running a model.

onnx's own shape inference is asked node by node, with the values of small inputs; small values
come from numpy, or from onnx's reference operators. Ranks and layers repeat each other, so that an
answer is kept for each kind of question: most nodes cost one look into a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, defs, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

from .. import contrib
from ..graph import opsets
from ..nodes import draws, references, subgraphs
from ..shapes import UNFOLLOWED, in_question
from .values import UNKNOWN, Array, Tensor, is_small

AI_ONNX = ("", "ai.onnx")


def _folded(function: Callable[..., Array], first: Array, *others: Array) -> Array:
    """Combine any number of arrays, of which numpy takes two at a time."""
    return reduce(function, others, np.asarray(first))


IN_NUMPY: Mapping[str, Callable[..., Array]] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Equal": np.equal,
    "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Identity": np.asarray,
    "Less": np.less, "LessOrEqual": np.less_equal, "Max": partial(_folded, np.maximum),
    "Min": partial(_folded, np.minimum),
    "Mod": np.mod, "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not,
    "Or": np.logical_or,
    "Sub": np.subtract, "Where": np.where, "Xor": np.logical_xor,
}  # fmt: skip
"""Of integers and bools: the arithmetic on ranks, which loops repeat."""


UNANSWERED = (
    defs.SchemaError, InferenceError, ValidationError, LookupError, ValueError, TypeError,
    RuntimeError,
)  # fmt: skip
"""What comes where nobody knows what an operator makes."""


class Node(NamedTuple):
    """A compute node, made ready: what it is apart from the names that it reads and makes."""

    proto: NodeProto
    reads: tuple[str, ...]
    """its inputs, "" among them, and what its bodies capture"""
    makes: tuple[str, ...]
    kind: int
    """the same for nodes that make the same of the same"""
    draws: bool
    """whether it may make another thing on every rank"""


class Transfer:
    """The table of what nodes make."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], int] = {}
        self._made: dict[tuple[object, ...], tuple[Tensor, ...]] = {}

    def prepared(self, model: ModelProto) -> list[Node]:
        """Make the nodes of a model ready."""
        versions = opsets(model)
        versions["ai.onnx"] = versions.get("", 1)
        return [self._prepared(node, versions) for node in model.graph.node]

    def _prepared(self, node: NodeProto, versions: Mapping[str, int]) -> Node:
        domain, op_type = node.domain, node.op_type
        inputs, makes = tuple(node.input), tuple(node.output)
        given = tuple([name != "" for name in inputs + makes])
        kind: tuple[object, ...] = (domain, versions.get(domain, 1), op_type, len(inputs), given)
        if not node.attribute:  # most have none, and all of what follows takes time
            return Node(node, inputs, makes, self._number(kind), draws(node))
        attributes = [entry.SerializeToString(deterministic=True) for entry in node.attribute]
        number = self._number((*kind, *sorted(attributes)))
        return Node(node, inputs + _captured(node), makes, number, draws(node))

    def _number(self, kind: tuple[object, ...]) -> int:
        return self._kinds.setdefault(kind, len(self._kinds))

    def outputs(
        self, node: Node, inputs: tuple[Tensor, ...], model: ModelProto
    ) -> tuple[Tensor, ...]:
        """Return what is known of each output."""
        key = (node.kind, *inputs)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = _infer(node, inputs, model)
        return made


def _captured(node: NodeProto) -> tuple[str, ...]:
    if not any(subgraphs(node)):
        return ()
    return tuple(dict.fromkeys(references(node)))[len({*node.input} - {""}) :]


def _infer(node: Node, inputs: Sequence[Tensor], model: ModelProto) -> tuple[Tensor, ...]:
    proto = node.proto
    known = dict(zip(node.reads, inputs, strict=True))
    try:
        found = (
            _of_contrib(proto, inputs)
            if contrib.is_contrib(proto)
            else _of_schema(proto, known, model)
        )
    except UNANSWERED:
        found = {}
    made = [found.get(name, UNKNOWN) for name in proto.output]
    if len(made) == 1 and proto.domain in AI_ONNX:
        value = _value(proto, inputs, known, made[0], model)
        made = [made[0] if value is None else Tensor.of(value)]
    return tuple(made)


def _of_contrib(proto: NodeProto, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    operands = [
        contrib.Known(tensor.dtype, tensor.shape, tensor.value)  # type: ignore[arg-type]
        if tensor.is_fixed and tensor.dtype
        else None
        for tensor in inputs
    ]
    made = contrib.made(proto, operands)
    return {
        name: Tensor(one.data_type, tuple(one.shape))
        for name, one in zip(proto.output, made, strict=False)
    }


def _of_schema(
    proto: NodeProto, known: Mapping[str, Tensor], model: ModelProto
) -> dict[str, Tensor]:
    imports = list(model.opset_import)
    schema, asked = in_question(proto, opsets(model))
    types = {name: tensor.proto for name, tensor in known.items() if name and tensor.dtype}
    data = {
        name: numpy_helper.from_array(tensor.value, name)
        for name, tensor in known.items()
        if tensor.value is not None
    }
    made = infer_node_outputs(schema, asked, types, data, None, imports, model.ir_version)
    return {name: Tensor.declared(kind) for name, kind in made.items()}


def _value(
    proto: NodeProto,
    inputs: Sequence[Tensor],
    known: Mapping[str, Tensor],
    made: Tensor,
    model: ModelProto,
) -> Array | None:
    """Compute a small output from small inputs."""
    has_body = any(subgraphs(proto))  # which onnx infers nothing of
    if proto.op_type in UNFOLLOWED or not (has_body or is_small(made)):
        return None
    feeds: dict[str, Array] = {}
    for name, tensor in known.items():
        value = tensor.value
        if value is None and name and proto.op_type in ("Shape", "Size") and tensor.is_fixed:
            # The shape is enough; a tensor of that shape costs nothing until it is filled.
            value = np.broadcast_to(np.float32(0), tensor.shape)  # type: ignore[arg-type]
        if name and value is None:
            return None
        if name and value is not None:
            feeds[name] = value
    with np.errstate(all="ignore"):
        whole = not proto.attribute and all(x.dtype.kind in "iub" for x in feeds.values())
        if whole and proto.op_type in IN_NUMPY:
            value = IN_NUMPY[proto.op_type](*(feeds[name] for name in proto.input))
            return np.asarray(value, helper.tensor_dtype_to_np_dtype(made.dtype or 0))
        return _of_reference(proto, feeds, known, model)


def _of_reference(
    proto: NodeProto, feeds: Mapping[str, Array], known: Mapping[str, Tensor], model: ModelProto
) -> Array | None:
    inputs = [onnx.ValueInfoProto(name=name, type=known[name].proto) for name in feeds]
    graph = helper.make_graph([proto], "node", inputs, [onnx.ValueInfoProto(name=proto.output[0])])
    alone = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    try:
        (made,) = ReferenceEvaluator(alone).run(None, dict(feeds))
    except Exception:  # any operator may fail in its own way
        return None
    return made if isinstance(made, np.ndarray | np.generic) else None  # type: ignore[return-value]
