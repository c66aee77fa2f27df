"""Calls of functions that are known collectives, made the operators that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, NodeProto, helper

from ..calls import Key, called, key_of
from ..errors import ModelError
from ..nodes import attribute, every_node, label, rewrite
from ..opset import DIMS, GROUP, OPS, is_ours
from ..opset import DOMAIN as OURS
from ..plan import check_whole
from ..plan.seal import set_seal
from .lower import Place, recognised
from .lowering import Lowering
from .ring import DOMAIN


def native(model: ModelProto, place: Place) -> ModelProto:
    """Return a model in which known functions are operators, by the algorithm that they spell out.

    A ring is known where its rank and size are those of Rank and Size. What is not known stays.
    The model loses its seal, after a look at it. Raises ModelError for a model that is not what
    its seal says, and for a function of another place than this rank's.
    """
    known = _known(model)
    if not known:
        return model
    check_whole(model)
    made = ModelProto()
    made.CopyFrom(model)
    set_seal(made, None)
    maker = {name: node for node in every_node(made) for name in node.output if name}
    swap = _Swap(known, maker, place)
    for holder in (made.graph, *(f for f in made.functions if f.domain != DOMAIN)):
        rewrite(holder, swap.swapped)
    return made


def check_places(model: ModelProto, place: Place) -> None:
    """Raise ModelError for a call of a function that is another rank's."""
    known = _known(model)
    for node in every_node(model):
        what = known.get(called(node))
        if isinstance(what, Lowering):
            _check_place(node, what, place)


def _known(model: ModelProto) -> dict[Key, Lowering | str]:
    found = {key_of(function): recognised(function) for function in model.functions}
    return {key: what for key, what in found.items() if what is not None}


def _check_place(node: NodeProto, what: Lowering, place: Place) -> None:
    rank, size = place(_group(node))
    if (rank, size) != (what.rank, what.size):
        raise ModelError(
            f"{label(node)} is the part of rank {what.rank} of {what.size}, but this is rank "
            f"{rank} of {size}; lower the model for {size} ranks"
        )


def _group(node: NodeProto) -> dict[str, Any]:
    found = {name: attribute(node, name) for name in GROUP}
    return {name: value for name, value in found.items() if value is not None}


@dataclass
class _Swap:
    known: Mapping[Key, Lowering | str]
    maker: Mapping[str, NodeProto]
    place: Place

    def swapped(self, node: NodeProto) -> list[NodeProto]:
        """Return the operator in place of a call; another node as it is."""
        what = self.known.get(called(node))
        if isinstance(what, Lowering):
            return [self._lowered(node, what)]
        if what is not None and self._is_here(node):
            return [self._ring(node, what)]
        return [node]

    def _lowered(self, node: NodeProto, what: Lowering) -> NodeProto:
        _check_place(node, what, self.place)
        names = [name for name in DIMS if name in OPS[what.op_type].attributes]
        values = {name: attribute(node, name) for name in names}
        values |= {"op": what.op, "root": what.root, "algorithm": what.algorithm}
        if "dtype" in OPS[what.op_type].attributes:
            values["dtype"] = attribute(node, "dtype")
        given = {name: value for name, value in values.items() if value is not None}
        return _operator(node, what.op_type, list(node.input), given)

    def _is_here(self, node: NodeProto) -> bool:
        """Say whether a ring is told the rank and size of its group."""
        makers = [self.maker.get(name) for name in node.input[:2]]
        return [maker and maker.op_type for maker in makers] == ["Rank", "Size"] and all(
            maker is not None and is_ours(maker) and _group(maker) == _group(node)
            for maker in makers
        )

    def _ring(self, node: NodeProto, op: str) -> NodeProto:
        given = {"op": op, "algorithm": "ring"}
        return _operator(node, "AllReduce", list(node.input[2:]), given)


def _operator(
    node: NodeProto, op_type: str, inputs: list[str], given: Mapping[str, Any]
) -> NodeProto:
    return helper.make_node(
        op_type, inputs, node.output, node.name, domain=OURS, **_group(node), **given
    )
