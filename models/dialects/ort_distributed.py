"""onnxruntime's com.microsoft Distributed operators, as local nodes and our communication.

Each rank is fed and keeps its own parts of tensors; a node says by specs where the parts of its
inputs lie and where those of its output shall. The operator is computed where the least is moved,
whatever the specs are: meshes of several axes, repeated devices, dims that are reduced. Sizes that
a file fixes are of a rank's part, and the whole is taken to be as many times as long; what a file
leaves open may be cut unevenly. Where an operand that says how (axes, a target shape) is computed
when the model runs, and shapes do not tell it either, data are gathered first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from ..errors import ModelError, PlacementError
from ..graph import MAX_IR, Graph, constant, opsets
from ..nodes import attribute, label, subgraphs
from ..ordering import stable_order
from ..placing.cuts import Cuts, Wish, choose, shape_of
from ..placing.moving import move
from ..placing.node import compute, outputs
from ..placing.placement import Placement, Shape
from ..placing.rank_graph import RankGraph
from ..shapes import VALUE_ELEMENTS, Shapes, infer_nodes
from ..sharding.analysis import LARGE, SMALL, Measured, tie
from ..sharding.site import Site, Tensor
from ..weights import Weight
from .ort_specs import Spec

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
    if model.functions:
        model = inliner.inline_local_functions(model)
    made = ModelProto()
    made.CopyFrom(model)
    if not any(entry.domain in ("", "ai.onnx") for entry in made.opset_import):
        made.opset_import.append(helper.make_opsetid("", OPSET))
    nodes = [made.graph.node[k] for k in stable_order(made.graph.node)]
    lowering = _Lowering(made, rank, size)
    for node in nodes:
        try:
            lowering.write(node)
        except (PlacementError, ModelError) as error:
            raise ModelError(f"{label(node)}: {error}") from None
    del made.graph.node[:]
    made.graph.node.extend(lowering.out.nodes)
    made.graph.initializer.extend(weight.proto for weight in lowering.out.constants.values())
    made.graph.value_info.extend(lowering.out.value_info.values())
    return made


@dataclass(frozen=True)
class _Parts:
    """A tensor of which this rank has a part."""

    name: str
    placement: Placement


class _Lowering:
    """One rank's graph while it is rewritten, and the shapes of this rank's parts."""

    def __init__(self, model: ModelProto, rank: int, size: int) -> None:
        graph = model.graph
        names = {name for node in graph.node for name in (*node.input, *node.output)}
        names |= {value.name for value in graph.input} | {t.name for t in graph.initializer}
        self.out = RankGraph(rank, names)
        self._size = size
        self._declared = {value.name: value for value in (*graph.value_info, *graph.output)}
        self._graph = Graph(
            graph.name, (), (), (), {}, (), min(model.ir_version, MAX_IR), opsets(model), {}
        )
        weights = {t.name: Weight.of(t) for t in graph.initializer if not t.external_data}
        symbols = sorted({d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim})
        self._local = tuple(
            _shapes(model, weights, {name: row[k % len(row)] for k, name in enumerate(symbols)})
            for row in (LARGE, SMALL)
        )

    def write(self, node: NodeProto) -> None:
        """Add what this rank does for a node."""
        if any(map(_is_or_holds, (n for body in subgraphs(node) for n in body.node))):
            raise ModelError("expected no Distributed operators in its bodies; move them out")
        if not is_distributed(node):
            self.out.nodes.append(node)
            for found in self._local:
                _follow(node, self._graph, found)
            return
        self.out.base = node.output[0]
        given = self._specs(node, "input", node.input)
        (wanted,) = self._specs(node, "output", node.output[:1])
        measured = self._measured(node, given, wanted)
        plain = self._plain(node, measured)
        site = tie(replace(self._graph, nodes=(plain,), inputs=(), outputs=()), measured).sites[0]
        self._note(wanted, site.output(), measured)
        self._compute(site, given, wanted)

    def _compute(self, site: Site, given: Sequence[_Parts], wanted: _Parts) -> None:
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
        made = compute(self.out, cuts, names)
        self._give(cuts, made.get(wanted.name, ""), wanted)

    def _give(self, cuts: Cuts, name: str, wanted: _Parts) -> None:
        """Bring the result to where it shall lie, under its own name."""
        tensor = cuts.site.output()
        name = self._moved(tensor, name, outputs(cuts)[tensor.name], wanted.placement)
        if not name:  # a rank outside of the mesh has no part
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            name = self.out.constant(np.empty([0] * max(tensor.rank, 1), dtype))
        self.out.named("Identity", [name], [wanted.name])

    def _moved(self, tensor: Tensor, name: str, before: Placement, after: Placement) -> str:
        rank = max([tensor.rank, *(1 + dim for p in (before, after) for dim in p.dims)])
        shape: Shape = shape_of(tensor) if tensor.has_shape else (None,) * rank
        return move(self.out, name, shape, before, after, tensor.data_type)

    def _specs(self, node: NodeProto, side: str, names: Sequence[str]) -> list[_Parts]:
        """Read the specs of the inputs or outputs that are there."""
        specs = _strings(node, f"{side}_shard_specs")
        shape, elements = _shared_mesh(node)
        shapes = _strings(node, f"{side}_device_mesh_shapes") or [shape] * len(specs)
        meshes = _strings(node, f"{side}_device_mesh_elements") or [elements] * len(specs)
        if not len(names) <= len(specs) == len(shapes) == len(meshes):
            raise ModelError(
                f"expected a spec, a mesh shape and mesh elements for each of {len(names)} "
                f"{side}s, got {len(specs)}, {len(shapes)} and {len(meshes)}"
            )
        made = list[_Parts]()
        for name, *texts in zip(names, specs, shapes, meshes, strict=False):
            if name:
                spec = Spec(*texts)
                made.append(_Parts(name, spec.placement()))
                self._check_rank(name, spec, side)
                if max(made[-1].placement.members) >= self._size:
                    raise ModelError(f"expected devices below {self._size}, got {texts[2]}")
        return made

    def _check_rank(self, name: str, spec: Spec, side: str) -> None:
        shape = self._local[0].shapes.get(name) if side == "input" else None
        if shape is not None and len(shape) != spec.rank:
            raise ModelError(f"expected a spec of {len(shape)} dims for {name!r}, got {spec.text}")

    def _measured(self, node: NodeProto, given: Sequence[_Parts], wanted: _Parts) -> Measured:
        """Return the shapes of the whole tensors of a node."""
        made = [Shapes(), Shapes()]
        for whole, local in zip(made, self._local, strict=True):
            for each in given:
                if each.name in local.types:
                    whole.types[each.name] = local.types[each.name]
                if each.name in local.shapes:
                    whole.shapes[each.name] = self._whole(local.shapes[each.name], each.placement)
                if each.name in local.values and not each.placement.dims:
                    whole.values[each.name] = local.values[each.name]
        if OPERATORS[node.op_type] == "MatMul":
            _agree(made, node)
        target = self._target(wanted)
        if target is not None:
            self._tell(node, made, target)
        return Measured(made[0], made[1], made[0])

    def _plain(self, node: NodeProto, measured: Measured) -> NodeProto:
        """Return the operator of ai.onnx, and note the shape of what it makes."""
        op_type, inputs = OPERATORS[node.op_type], list(node.input)
        kept = {e.name: helper.get_attribute_value(e) for e in node.attribute if e.name in PASSED}
        if self._graph.opsets.get("", OPSET) < AXES_AS_INPUT.get(op_type, 0) and len(inputs) > 1:
            axes = measured.first.values.get(inputs.pop())
            if axes is None:
                raise ModelError(
                    f"expected axes that are known before opset {AXES_AS_INPUT[op_type]}"
                )
            kept["axes"] = axes.reshape(-1).tolist()
        plain = helper.make_node(op_type, inputs, node.output[:1], node.name, **kept)
        for found in (measured.first, measured.second):
            _follow(plain, self._graph, found)
        if node.output[0] not in measured.first.types:
            kind = measured.first.types.get(node.input[0])
            measured.first.types[node.output[0]] = kind or TensorProto.FLOAT
        return plain

    def _whole(self, shape: Sequence[int], placement: Placement) -> tuple[int, ...]:
        """Return the sizes of a tensor of which this rank's part has `shape`."""
        made = list(shape)
        for dim, each in placement.dims.items():
            made[dim] = made[dim] * each.shards // self._owned(dim, placement)
        return tuple(made)

    def _owned(self, dim: int, placement: Placement) -> int:
        """Return how many of the parts of a dim this rank has, or would have."""
        device = self.out.rank if self.out.rank in placement.members else placement.members[0]
        k = next(k for k, each in enumerate(placement.cuts) if each.dim == dim)
        return len({block[k] for block in placement.blocks(device)})

    def _target(self, wanted: _Parts) -> tuple[int, ...] | None:
        """Return the sizes of the whole result, where the file fixes those of this rank's part."""
        found = self._declared.get(wanted.name)
        dims = found.type.tensor_type.shape.dim if found is not None else []
        if not dims or not all(dim.HasField("dim_value") for dim in dims):
            return None
        return self._whole([dim.dim_value for dim in dims], wanted.placement)

    def _tell(self, node: NodeProto, made: Sequence[Shapes], target: tuple[int, ...]) -> None:
        """Say what the shape of a result tells of an operand that is computed when it runs."""
        op_type = OPERATORS[node.op_type]
        for found in made:
            x = found.shapes.get(node.input[0])
            if len(node.input) > 1 and node.input[1] not in found.values:
                if op_type in ("Reshape", "Expand"):
                    found.values[node.input[1]] = np.array(target)
                elif op_type.startswith("Reduce") and x is not None and len(x) == len(target):
                    axes = [k for k, size in enumerate(x) if target[k] == 1 != size]
                    if attribute(node, "keepdims", 1) and axes:
                        found.values[node.input[1]] = np.array(axes)
            found.shapes.setdefault(node.output[0], target)
            if node.input[0] in found.types:
                found.types.setdefault(node.output[0], found.types[node.input[0]])

    def _note(self, wanted: _Parts, tensor: Tensor, measured: Measured) -> None:
        """Note type and shape of this rank's part of a result."""
        for local, whole in zip(self._local, measured, strict=False):
            if tensor.name in whole.types:
                local.types[tensor.name] = whole.types[tensor.name]
            shape = whole.shapes.get(tensor.name)
            if shape is not None:
                cut = wanted.placement.dims
                local.shapes[tensor.name] = tuple(
                    size * self._owned(dim, wanted.placement) // cut[dim].shards
                    if dim in cut
                    else size
                    for dim, size in enumerate(shape)
                )


def _shapes(model: ModelProto, weights: Mapping[str, Weight], sizes: Mapping[str, int]) -> Shapes:
    """Return what a file says of its inputs and weights, its symbols having `sizes`."""
    found = Shapes()
    for value in (*model.graph.value_info, *model.graph.input):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            continue
        found.types[value.name] = tensor.elem_type
        dims = [d.dim_value or sizes.get(d.dim_param) for d in tensor.shape.dim]
        if tensor.HasField("shape") and None not in dims:
            found.shapes[value.name] = tuple(dim for dim in dims if dim is not None)
    for tensor in model.graph.initializer:
        found.types[tensor.name], found.shapes[tensor.name] = tensor.data_type, tuple(tensor.dims)
        if tensor.name in weights and math.prod(tensor.dims) <= VALUE_ELEMENTS:
            found.values[tensor.name] = weights[tensor.name].read()
    return found


def _follow(node: NodeProto, graph: Graph, found: Shapes) -> None:
    """Note the types and shapes of what a node makes, its value where it is a constant."""
    tensor = constant(node)
    if tensor is None:
        infer_nodes([node], graph, found)
    else:
        found.types[node.output[0]] = tensor.data_type
        found.shapes[node.output[0]] = tuple(tensor.dims)
        found.values[node.output[0]] = numpy_helper.to_array(tensor)


def _agree(made: Sequence[Shapes], node: NodeProto) -> None:
    """Give the dims that both factors of a product have the sizes that one of them fixes."""
    a, b = node.input
    if any(name not in found.shapes for found in made for name in (a, b)):
        return
    ranks = len(made[0].shapes[a]), len(made[0].shapes[b])
    pairs = [(-1, -2 if ranks[1] > 1 else -1)]
    pairs += [(-k, -k) for k in range(3, min(ranks) + 1)]
    for x, y in pairs:
        left, right = ([found.shapes[n][d] for found in made] for n, d in ((a, x), (b, y)))
        is_summed = (x, y) == pairs[0]
        if left == right or (not is_summed and 1 in (left[0], right[0])):
            continue
        if left[0] == left[1] and right[0] == right[1]:
            raise ModelError(f"expected factors that fit, got {left[0]} and {right[0]}")
        agreed = right if right[0] == right[1] else left
        for k, found in enumerate(made):
            for name, dim in ((a, x), (b, y)):
                shape = list(found.shapes[name])
                shape[dim] = agreed[k]
                found.shapes[name] = tuple(shape)


def _strings(node: NodeProto, name: str) -> list[str]:
    given: Any = attribute(node, name, [])
    return [text.decode() if isinstance(text, bytes) else str(text) for text in given]


def _shared_mesh(node: NodeProto) -> tuple[str, str]:
    """Return the mesh of all tensors, as earlier versions of the operators have it."""
    shape: Any = attribute(node, "device_mesh_shape", [])
    elements: Any = attribute(node, "device_mesh_elements", [])
    return str(list(shape)), str(list(elements))
