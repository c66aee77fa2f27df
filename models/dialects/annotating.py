"""Writes a choice of what is sharded as device configurations on the plain graph.

A node that is computed on parts gets a spec for each of its tensors that is cut, wherever the spec
can be said: not that of a concatenation whose parts are each cut, such as packed queries, keys and
values. Such a tensor lies as the nodes around it have it. What no node says, that parts stay
partial until they meet others, is lost as well. So is the cut of a layer that communicates in its
own steps: it is computed whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import DeviceConfigurationProto, ModelProto, NodeProto

from ..graph import MAX_IR, Graph
from ..nodes import subgraphs
from ..placing.placement import Cut, Factor, Placement
from ..sharding.analysis import Analysis
from ..sharding.axes import leaves
from ..sharding.halo import sliding
from ..sharding.layout import Layout, is_opaque
from ..sharding.part import Part
from ..sharding.site import Site, Tensor
from ..sharding.spread.stages import Stages
from .annotation_specs import write_spec
from .annotations import IR_VERSION, lowered

NAME = "ranks"
"""of the configuration"""


def annotated(analysis: Analysis, layout: Layout, stages: Stages) -> list[NodeProto]:
    """Return the nodes of a graph, each with the placements of its tensors and its stage."""
    pairs = zip(analysis.outermost, stages.of, strict=True)
    return [_annotated(site, layout, stage, stages.count) for site, stage in pairs]


def _annotated(site: Site, layout: Layout, stage: int | None, count: int) -> NodeProto:
    if stage is None or any(subgraphs(site.node)):
        return site.node
    devices = range(stage * layout.size, (stage + 1) * layout.size)
    tensors = {t.name: t for t in (*site.inputs, *site.outputs) if t is not None}
    placements = {
        name: placed
        for name, tensor in tensors.items()
        if (placed := placement(tensor, layout, devices)) and _is_on_parts(site, layout)
    }
    if not placements and count > 1:
        placements = {next(filter(None, site.node.output)): Placement.everywhere(devices)}
    if not placements:
        return site.node
    node = NodeProto()
    node.CopyFrom(site.node)
    entry = node.device_configurations.add(configuration_id=NAME)
    entry.sharding_spec.extend(write_spec(name, placed) for name, placed in placements.items())
    if count > 1:
        entry.pipeline_stage = stage
    return node


def _is_on_parts(site: Site, layout: Layout) -> bool:
    """Say whether what a node reads and makes is what specs can say: they know no halos."""
    communicates = any(map(layout.holds, site.gathered)) or sliding(site.windows, layout)
    return not is_opaque(site, layout) and not communicates


def placement(tensor: Tensor, layout: Layout, devices: Sequence[int]) -> Placement | None:
    """Return how a tensor lies on devices; None if it is whole, or cut as no spec can say."""
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
    return Placement(tuple(cuts), tuple((device,) for device in devices))


def configure(model: ModelProto, size: int) -> None:
    """Declare the configuration that annotated nodes refer to."""
    model.ir_version = min(max(model.ir_version, IR_VERSION), MAX_IR)
    model.configuration.append(DeviceConfigurationProto(name=NAME, num_devices=size))


def parts(model: ModelProto, graph: Graph, size: int) -> tuple[Part, ...]:
    """Return what each rank of an annotated model holds and does when it runs."""
    return tuple(lowered(model, graph, size, rank) for rank in range(size))
