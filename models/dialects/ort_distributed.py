"""onnxruntime's com.microsoft Distributed operators, as local nodes and our communication.

Each rank is fed and keeps its own parts of tensors; a node says by specs where the parts of its
inputs lie and where those of its output shall. The operator is computed where the least is moved,
whatever the specs are: meshes of several axes, repeated devices, dims that are reduced. Sizes that
a file fixes are of a rank's part, and the whole is taken to be as many times as long; what a file
leaves open may be cut unevenly. Where an operand that says how (axes, a target shape) is computed
when the model runs, and shapes do not tell it either, data are gathered first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from ..calls import inlined
from ..errors import ModelError, PlacementError
from ..nodes import label, replace_nodes, subgraphs
from ..ordering import stable_order
from ..placing.choosing import Wish, choose
from ..placing.cuts import shape_of
from ..placing.moving import move
from ..placing.node import compute, outputs
from ..placing.placement import Placement, Shape
from ..placing.rank_graph import RankGraph
from ..shapes import infer_nodes
from ..sharding.analysis import Measured, tie
from ..sharding.site import Site, Tensor
from .ort_sizes import Sizes
from .ort_specs import Located, located

DOMAIN = "com.microsoft"

OPERATORS = {
    "DistributedExpand": "Expand",
    "DistributedMatMul": "MatMul",
    "DistributedReduceMax": "ReduceMax",
    "DistributedReduceMean": "ReduceMean",
    "DistributedReduceSum": "ReduceSum",
    "DistributedReshape": "Reshape",
    "DistributedSlice": "Slice",
    "DistributedSqueeze": "Squeeze",
    "DistributedUnsqueeze": "Unsqueeze",
}
"""What each of them computes, as an operator of ai.onnx."""

PASSED = {"allowzero", "keepdims"}
"""Attributes that mean the same there."""

AXES_AS_INPUT = {
    "ReduceMax": 18, "ReduceMean": 18, "ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13,
}  # fmt: skip
"""The opset from which axes are an input; before it they are an attribute."""

OPSET = 18
"""What is written where a model imports no ai.onnx."""


def is_distributed(node: NodeProto) -> bool:
    """Say whether a node is one of these operators."""
    return node.domain == DOMAIN and node.op_type in OPERATORS


def speaks(model: ModelProto) -> bool:
    """Say whether a model holds any of them, in bodies and functions too."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return any(_is_or_holds(node) for nodes in bodies for node in nodes)


def _is_or_holds(node: NodeProto) -> bool:
    inner = (n for body in subgraphs(node) for n in body.node)
    return is_distributed(node) or any(map(_is_or_holds, inner))


def lowered(model: ModelProto, rank: int, size: int) -> ModelProto:
    """Return a model in which these operators are local nodes and our communication.

    Raises ModelError, with the node, for specs that cannot be read or do not fit.
    """
    made = ModelProto()
    made.CopyFrom(inlined(model))
    if not any(entry.domain in ("", "ai.onnx") for entry in made.opset_import):
        made.opset_import.append(helper.make_opsetid("", OPSET))
    nodes = [made.graph.node[k] for k in stable_order(made.graph.node)]
    lowering = _Lowering(made, rank, size)
    for node in nodes:
        try:
            lowering.write(node)
        except (PlacementError, ModelError) as error:
            raise ModelError(f"{label(node)}: {error}") from None
    replace_nodes(made.graph, lowering.out.nodes)
    made.graph.initializer.extend(weight.proto for weight in lowering.out.constants.values())
    made.graph.value_info.extend(lowering.out.value_info.values())
    return made


class _Lowering:
    """One rank's graph while it is rewritten."""

    def __init__(self, model: ModelProto, rank: int, size: int) -> None:
        graph = model.graph
        names = {name for node in graph.node for name in (*node.input, *node.output)}
        names |= {value.name for value in graph.input} | {t.name for t in graph.initializer}
        self.out = RankGraph(rank, names)
        self._size = size
        self._sizes = Sizes(model, rank)

    def write(self, node: NodeProto) -> None:
        """Add what this rank does for a node."""
        if any(map(_is_or_holds, (n for body in subgraphs(node) for n in body.node))):
            raise ModelError("expected no Distributed operators in its bodies; move them out")
        if not is_distributed(node):
            self.out.nodes.append(node)
            self._sizes.follow(node)
            return
        self.out.base = node.output[0]
        given = located(node, "input", node.input, self._size)
        (wanted,) = located(node, "output", node.output[:1], self._size)
        measured = self._sizes.of_whole(node, OPERATORS[node.op_type], given, wanted)
        plain = self._plain(node, measured)
        graph = replace(self._sizes.graph, nodes=(plain,), inputs=(), outputs=())
        site = tie(graph, measured).outermost[0]
        made = site.output()
        if made.has_shape and made.rank != wanted.rank:
            raise PlacementError(
                f"expected a spec of {made.rank} dims for {made.name!r}, got {wanted.rank}"
            )
        self._sizes.note(wanted, measured)
        self._compute(site, given, wanted)

    def _compute(self, site: Site, given: Sequence[Located], wanted: Located) -> None:
        places = {each.name: each.placement for each in given}
        wishes = [
            Wish(tensor, places[tensor.name]) for tensor in site.inputs if tensor is not None
        ]
        wishes.append(Wish(site.output(), wanted.placement))
        cuts = choose(site, wishes, wanted.placement.members)
        names = {
            tensor.name: self._moved(
                tensor, tensor.name, places[tensor.name], cuts.placement(tensor)
            )
            for tensor in site.inputs
            if tensor is not None
        }
        asked = {wanted.name: wanted.placement}
        made = compute(self.out, cuts, names, asked)
        self._give(cuts.site.output(), made.get(wanted.name, ""), outputs(cuts, asked), wanted)

    def _give(
        self, tensor: Tensor, name: str, here: Mapping[str, Placement], wanted: Located
    ) -> None:
        """Bring the result to where it shall lie, under its own name."""
        name = self._moved(tensor, name, here[tensor.name], wanted.placement)
        if not name:  # a rank outside of the mesh has no part
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            name = self.out.constant(np.empty([0] * max(tensor.rank, 1), dtype))
        self.out.named("Identity", [name], [wanted.name])

    def _moved(self, tensor: Tensor, name: str, before: Placement, after: Placement) -> str:
        rank = max([tensor.rank, *(1 + dim for p in (before, after) for dim in p.dims)])
        shape: Shape = shape_of(tensor) if tensor.has_shape else (None,) * rank
        return move(self.out, name, shape, before, after, tensor.data_type)

    def _plain(self, node: NodeProto, measured: Measured) -> NodeProto:
        """Return the operator of ai.onnx, and note the shape of what it makes."""
        op_type, inputs = OPERATORS[node.op_type], list(node.input)
        kept = {e.name: helper.get_attribute_value(e) for e in node.attribute if e.name in PASSED}
        if (
            self._sizes.graph.opsets.get("", OPSET) < AXES_AS_INPUT.get(op_type, 0)
            and len(inputs) > 1
        ):
            axes = measured.first.values.get(inputs.pop())
            if axes is None:
                raise ModelError(
                    f"expected axes that are known before opset {AXES_AS_INPUT[op_type]}"
                )
            kept["axes"] = axes.reshape(-1).tolist()
        plain = helper.make_node(op_type, inputs, node.output[:1], node.name, **kept)
        for found in (measured.first, measured.second):
            infer_nodes([plain], self._sizes.graph, found)
        if node.output[0] not in measured.first.types:
            kind = measured.first.types.get(node.input[0])
            measured.first.types[node.output[0]] = kind or TensorProto.FLOAT
        return plain
