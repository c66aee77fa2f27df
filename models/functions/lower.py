"""Collective nodes of a model made calls of functions over Send and Recv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from ...collectives.reduction import reduction
from ..calls import inlined
from ..errors import ModelError
from ..graph import load, opsets
from ..known import inferred
from ..nodes import every_node, free, label, rewrite, subgraphs, value_names
from ..opset import DIMS, GROUP, OPS, VERSION, attributes, is_ours
from ..opset import DOMAIN as OURS
from ..plan import check_whole, sealed
from ..shapes import infer
from .lowering import Lowering, check_algorithm
from .ring import DOMAIN, OPERATORS, ring_function, ring_name
from .rounds import lowered_function

Place = Callable[[Mapping[str, Any]], tuple[int, int]]
"""This rank's number in the group that attributes name, and how many ranks that has."""

OLDEST = 13
"""The opset in which Split is told the lengths of parts by a tensor."""

KEPT = (*DIMS, *GROUP)
"""Attributes that a call has of its node."""

LOGICAL = ("land", "lor", "lxor")


def lower(model: ModelProto, chosen: Mapping[str, str], place: Place | None) -> ModelProto:
    """Return a model, sealed, whose collectives of the chosen operators are functions.

    `chosen` is the algorithm by operator. AllReduce by ring is one function for all ranks; any
    other one is another function on each rank, and needs its `place`. Functions of the model that
    communicate are inlined first. What comes out is sealed as it is written. Raises ModelError.
    """
    try:
        for op_type, algorithm in chosen.items():
            check_algorithm(op_type, algorithm)
    except ValueError as error:
        raise ModelError(str(error)) from None
    check_whole(model)  # what is not would be sealed anew
    made = ModelProto()
    foreign = any(is_ours(n) for f in model.functions if f.domain != DOMAIN for n in f.node)
    made.CopyFrom(inlined(model) if foreign else model)
    opset = opsets(made).get("", 1)
    if opset < OLDEST:
        raise ModelError(f"expected a model of opset {OLDEST} or newer, got {opset}")
    lowerer = _Lowerer(chosen, place, opset, element_types(made), value_names(made.graph))
    rewrite(made.graph, lowerer.called)
    known = {(function.domain, function.name) for function in made.functions}
    made.functions.extend(f for f in lowerer.functions.values() if (f.domain, f.name) not in known)
    imported = {entry.domain for entry in made.opset_import}
    for domain in (OURS, DOMAIN):
        if domain not in imported:
            made.opset_import.append(helper.make_opsetid(domain, VERSION))
    return sealed(made)


def element_types(model: ModelProto) -> dict[str, int]:
    """Return what is known of the element types of a model's values, in bodies too."""
    told = inferred(model)
    graphs = [told.graph, *(b for node in every_node(told) for b in subgraphs(node))]
    types = {
        value.name: value.type.tensor_type.elem_type
        for graph in graphs
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    types |= {tensor.name: tensor.data_type for graph in graphs for tensor in graph.initializer}
    found = {name: kind for name, kind in types.items() if kind}
    operands = (n.input[0] for n in every_node(told) if is_ours(n) and n.input)
    if all(name in found for name in operands):
        return found
    return infer(load(model), {}).types | found


@dataclass
class _Lowerer:
    chosen: Mapping[str, str]
    place: Place | None
    opset: int
    types: Mapping[str, int]
    taken: set[str]
    """the names of values"""
    functions: dict[str, FunctionProto] = field(default_factory=dict)
    """those that are called, by name"""

    def called(self, node: NodeProto) -> list[NodeProto]:
        """Return what does the same as a collective that is chosen; another node as it is."""
        if not is_ours(node) or node.op_type not in self.chosen:
            return [node]
        try:
            values = attributes(node)
            return self._call(node, values)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{label(node)}: {error}") from None

    def _call(self, node: NodeProto, values: Mapping[str, Any]) -> list[NodeProto]:
        has_operand = OPS[node.op_type].operand != "none"
        operand, tokens = list(node.input[:has_operand]), list(node.input[has_operand:])
        made, after = self._together([name for name in tokens if name], node)
        given = {name: values[name] for name in KEPT if name in values}
        if has_operand:
            given["dtype"] = self._dtype(node, values)
        if "op" in values:
            _check_op(values["op"], given["dtype"])
        inputs = [*(operand or [""] * has_operand), *after]
        if self._is_generic(node, values):
            name = ring_name(values["op"])
            numbers = self._numbers(node, given)
            made, inputs = made + numbers, [*(n.output[0] for n in numbers), *inputs]
            if name not in self.functions:
                self.functions[name] = ring_function(values["op"], self.opset)
        else:
            what = self._lowering(node, values)
            name = what.name
            if name not in self.functions:
                self.functions[name] = lowered_function(what, self.opset)
        call = helper.make_node(name, inputs, node.output, node.name, domain=DOMAIN, **given)
        return [*made, call]

    def _is_generic(self, node: NodeProto, values: Mapping[str, Any]) -> bool:
        """Say whether one function does for all ranks."""
        is_ring = node.op_type == "AllReduce" and self.chosen[node.op_type] == "ring"
        return is_ring and values["op"] in OPERATORS

    def _lowering(self, node: NodeProto, values: Mapping[str, Any]) -> Lowering:
        algorithm = self.chosen[node.op_type]
        if self.place is None:
            raise ValueError(
                f"by {algorithm!r} it is another function on each rank; "
                "expected the number of ranks, -n"
            )
        rank, size = self.place(values)
        op, root = values.get("op"), values.get("root")
        return Lowering(node.op_type, algorithm, rank, size, op, root)

    def _dtype(self, node: NodeProto, values: Mapping[str, Any]) -> int:
        name = node.input[0] if node.input else ""
        kind = self.types.get(name) or values.get("dtype")
        if kind is None:
            raise ValueError(
                f"expected a known element type of {name!r}; give it in the model's value_info"
            )
        return int(kind)

    def _numbers(self, node: NodeProto, given: Mapping[str, Any]) -> list[NodeProto]:
        """Return nodes that give rank and size within the group of a node."""
        group = {name: value for name, value in given.items() if name in GROUP}
        names = {op_type: self._named(node, op_type) for op_type in ("Rank", "Size")}
        return [
            helper.make_node(op_type, [], [name], name, domain=OURS, **group)
            for op_type, name in names.items()
        ]

    def _together(self, tokens: list[str], node: NodeProto) -> tuple[list[NodeProto], list[str]]:
        """Return nodes that make one token of several, and that token, if there is any."""
        made = list[NodeProto]()
        while len(tokens) > 1:
            name = self._named(node, "after")
            made.append(helper.make_node("And", tokens[:2], [name], name))
            tokens = [name, *tokens[2:]]
        return made, tokens

    def _named(self, node: NodeProto, what: str) -> str:
        """Return a name that no value has."""
        stem = next(filter(None, node.output), node.name or node.op_type)
        return free(f"{stem}/{what}", self.taken)


def _check_op(op: str, dtype: int) -> None:
    """Raise ValueError or TypeError for elements that a reduction does not have."""
    reduction(op, helper.tensor_dtype_to_np_dtype(dtype))
    if op in LOGICAL and dtype != TensorProto.BOOL:
        raise ValueError(f"expected bool for op {op!r}, as ONNX has it")


def recognised(function: FunctionProto) -> Lowering | str | None:
    """Return which collective a function is: a Lowering, a ring's reduction, or None.

    What it says of itself is not believed: it must be, node by node, what would be written.
    """
    opset = {entry.domain: entry.version for entry in function.opset_import}.get("", 0)
    if function.domain != DOMAIN or opset < OLDEST:
        return None
    for op in OPERATORS:
        if function.name == ring_name(op):
            return op if _is_same(function, ring_function(op, opset)) else None
    what = Lowering.of(function)
    if what is None or not _is_same(function, lowered_function(what, opset)):
        return None
    return what


def _is_same(a: FunctionProto, b: FunctionProto) -> bool:
    texts = [function.SerializeToString(deterministic=True) for function in (a, b)]
    return bool(texts[0] == texts[1])
