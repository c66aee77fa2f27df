"""Sizes of the parts that a rank has of tensors, and of the whole tensors.

A file of onnxruntime's says the sizes of a rank's parts; the whole tensor is as many times as long
as it has parts for each of the rank's. Where a file leaves a size open, it is followed in two
settings of all such sizes, as the analysis of a graph does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from ..errors import PlacementError
from ..graph import MAX_IR, Graph, constant, opsets
from ..nodes import attribute
from ..placing.placement import Placement
from ..shapes import VALUE_ELEMENTS, Shapes, infer_nodes
from ..sharding.analysis import LARGE, SMALL, Measured
from ..weights import Weight
from .ort_specs import Located


class Sizes:
    """What is known of the tensors of one rank's graph."""

    def __init__(self, model: ModelProto, rank: int) -> None:
        graph = model.graph
        self._rank = rank
        self.graph = Graph(
            graph.name, (), (), (), {}, (), min(model.ir_version, MAX_IR), opsets(model), {}
        )
        """no more than what operators mean"""
        self._declared = {value.name: value for value in (*graph.value_info, *graph.output)}
        weights = {t.name: Weight.of(t) for t in graph.initializer if not t.external_data}
        symbols = sorted({d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim})
        self._local = tuple(
            _declared(model, weights, {name: row[k % len(row)] for k, name in enumerate(symbols)})
            for row in (LARGE, SMALL)
        )

    def follow(self, node: NodeProto) -> None:
        """Note what a node makes of a rank's own parts."""
        for found in self._local:
            tensor = constant(node)
            if tensor is None:
                infer_nodes([node], self.graph, found)
            else:
                found.types[node.output[0]] = tensor.data_type
                found.shapes[node.output[0]] = tuple(tensor.dims)
                found.values[node.output[0]] = numpy_helper.to_array(tensor)

    def of_whole(
        self, node: NodeProto, op_type: str, given: Sequence[Located], wanted: Located
    ) -> Measured:
        """Return the sizes of the whole tensors of a node that is computed as `op_type`.

        Raises PlacementError for specs of other numbers of dims, and for factors that do not fit.
        """
        made = [Shapes(), Shapes()]
        for whole, local in zip(made, self._local, strict=True):
            for name, placement, rank in given:
                _check_rank(name, rank, local)
                if name in local.types:
                    whole.types[name] = local.types[name]
                if name in local.shapes:
                    whole.shapes[name] = self._whole(local.shapes[name], placement)
                if name in local.values and not placement.dims:
                    whole.values[name] = local.values[name]
        if op_type == "MatMul":
            _agree(made, node)
        target = self._target(wanted)
        if target is not None:
            for found in made:
                _tell(node, op_type, found, target)
        return Measured(made[0], made[1], made[0])

    def note(self, wanted: Located, measured: Measured) -> None:
        """Note the type of a result, and the sizes of this rank's part of it."""
        name, placement, _ = wanted
        for local, whole in zip(self._local, measured, strict=False):
            if name in whole.types:
                local.types[name] = whole.types[name]
            if name in whole.shapes:
                local.shapes[name] = tuple(
                    size * self._owned(dim, placement) // placement.dims[dim].shards
                    if dim in placement.dims
                    else size
                    for dim, size in enumerate(whole.shapes[name])
                )

    def _whole(self, shape: Sequence[int], placement: Placement) -> tuple[int, ...]:
        """Return the sizes of a tensor of which this rank's part has `shape`."""
        made = list(shape)
        for dim, each in placement.dims.items():
            made[dim] = made[dim] * each.shards // self._owned(dim, placement)
        return tuple(made)

    def _owned(self, dim: int, placement: Placement) -> int:
        """Return how many of the parts of a dim this rank has, or would have."""
        device = self._rank if self._rank in placement.members else placement.members[0]
        k = next(k for k, each in enumerate(placement.cuts) if each.dim == dim)
        return len({block[k] for block in placement.blocks(device)})

    def _target(self, wanted: Located) -> tuple[int, ...] | None:
        """Return the sizes of the whole result, where the file fixes those of this rank's part."""
        found = self._declared.get(wanted.name)
        dims = found.type.tensor_type.shape.dim if found is not None else []
        if not dims or not all(dim.HasField("dim_value") for dim in dims):
            return None
        return self._whole([dim.dim_value for dim in dims], wanted.placement)


def _check_rank(name: str, rank: int, local: Shapes) -> None:
    shape = local.shapes.get(name)
    if shape is not None and len(shape) != rank:
        raise PlacementError(f"expected a spec of {len(shape)} dims for {name!r}, got {rank}")


def _declared(
    model: ModelProto, weights: Mapping[str, Weight], sizes: Mapping[str, int]
) -> Shapes:
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
            raise PlacementError(f"expected factors that fit, got {left[0]} and {right[0]}")
        agreed = right if right[0] == right[1] else left
        for k, found in enumerate(made):
            for name, dim in ((a, x), (b, y)):
                shape = list(found.shapes[name])
                shape[dim] = agreed[k]
                found.shapes[name] = tuple(shape)


def _tell(node: NodeProto, op_type: str, found: Shapes, target: tuple[int, ...]) -> None:
    """Say what the sizes of a result tell of an operand that is computed when the model runs."""
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
