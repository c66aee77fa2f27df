"""What is told of a rank's tensors: the sizes that are the same in all runs, and those of inputs.

onnxruntime's own inference guesses at times: it takes the length of a cache for that of its past,
and a slice for as long as what it was cut from. Within one session that does no harm; where a
tensor goes from one fragment to the next, it would be refused, or take another one's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from onnx import ValueInfoProto, helper

from ..shapes import dims
from .analysis import Analysis
from .axes import Size
from .layout import Layout
from .site import Tensor


def symbols(analysis: Analysis) -> dict[Size, str]:
    """Return the names of open dims by their sizes, without those that share one."""
    named = dict(_named(analysis))
    sizes = list(named.values())
    return {size: name for name, size in named.items() if sizes.count(size) == 1}


def _named(analysis: Analysis) -> Iterator[tuple[str, Size]]:
    for value in analysis.graph.inputs:
        for name, size in zip(dims(value), analysis.tensors[value.name].shape, strict=False):
            if isinstance(name, str):
                yield name, size


def declared(
    name: str, tensor: Tensor, known: Mapping[Size, str], layout: Layout, rank: int
) -> ValueInfoProto:
    """Describe a tensor, or a rank's part of it under a layout; a dim may be left open."""
    if not tensor.has_shape:
        return helper.make_tensor_value_info(name, tensor.data_type, None)
    local = [
        size if axis is None else layout.local(axis, rank)
        for size, axis in zip(tensor.shape, tensor.axes, strict=True)
    ]
    return sized(name, tensor, known, local)


def sized(
    name: str, tensor: Tensor, known: Mapping[Size, str], sizes: Iterable[Size]
) -> ValueInfoProto:
    """Describe a tensor of the same element type that has these sizes."""
    told = [size.first if size.is_static else known.get(size) for size in sizes]
    return helper.make_tensor_value_info(name, tensor.data_type, told)
