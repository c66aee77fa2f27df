"""Writes a choice of what is sharded as device configurations on the plain graph.

A node that is computed on parts gets a spec for each of its tensors that is cut, wherever the spec
can be said: not that of a concatenation whose parts are each cut, such as packed queries, keys and
values. Such a tensor lies as the nodes around it have it. What no node says, that parts stay
partial until they meet others, is lost as well.
"""

from __future__ import annotations

from onnx import DeviceConfigurationProto, ModelProto, NodeProto

from ..graph import MAX_IR, Graph
from ..placing.placement import Cut, Factor, Placement
from ..sharding.analysis import Analysis
from ..sharding.axes import leaves
from ..sharding.layout import Layout, is_opaque
from ..sharding.partition import Part
from ..sharding.site import Site, Tensor
from .annotation_specs import write_spec
from .annotations import IR_VERSION, lowered

NAME = "tp"
"""of the configuration"""


def annotated(analysis: Analysis, layout: Layout) -> list[NodeProto]:
    """Return the nodes of a graph, each with the placements of its tensors."""
    return [_annotated(site, layout) for site in analysis.sites]


def _annotated(site: Site, layout: Layout) -> NodeProto:
    tensors = {t.name: t for t in (*site.inputs, *site.outputs) if t is not None}
    placements = {name: placement(tensor, layout) for name, tensor in tensors.items()}
    specs = [
        write_spec(name, placed)
        for name, placed in placements.items()
        if placed is not None and name in (*site.node.input, *site.node.output)
    ]
    if not specs or is_opaque(site, layout):
        return site.node
    node = NodeProto()
    node.CopyFrom(site.node)
    node.device_configurations.add(configuration_id=NAME).sharding_spec.extend(specs)
    return node


def placement(tensor: Tensor, layout: Layout) -> Placement | None:
    """Return how a tensor lies; None for one that is whole, or cut as no spec can say."""
    cuts = list[Cut]()
    for dim, axis in enumerate(tensor.axes):
        if axis is None or not layout.holds(axis):
            continue
        row = leaves(axis)
        if any(leaf.kind == "sum" and layout.holds(leaf) for leaf in row):
            return None
        cuts.append(
            Cut(
                dim,
                tuple(
                    Factor(
                        leaf.size.first if leaf.size.is_static and len(row) > 1 else None,
                        layout.size if leaf in layout.sharded else 1,
                    )
                    for leaf in row
                ),
            )
        )
    is_one = sum(factor.shards > 1 for each in cuts for factor in each.factors) == 1
    has_one_size = all(sum(f.size is None for f in each.factors) < 2 for each in cuts)
    if not is_one or not has_one_size:
        return None
    return Placement(tuple(cuts), tuple((device,) for device in range(layout.size)))


def configure(model: ModelProto, size: int) -> None:
    """Declare the configuration that annotated nodes refer to."""
    model.ir_version = min(max(model.ir_version, IR_VERSION), MAX_IR)
    model.configuration.append(DeviceConfigurationProto(name=NAME, num_devices=size))


def parts(model: ModelProto, graph: Graph, size: int) -> tuple[Part, ...]:
    """Return what each rank of an annotated model holds and does when it runs."""
    return tuple(lowered(model, graph, size, rank) for rank in range(size))
