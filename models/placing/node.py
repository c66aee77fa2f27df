"""One node on one device: its parts of the inputs go in, and what is partial is combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from onnx import NodeProto

from ..sharding.layout import Layout
from ..sharding.local_site import LocalSite
from ..sharding.rules import find_rule
from ..sharding.site import Tensor
from .cuts import Cuts
from .placement import Placement
from .rank_graph import RankGraph

Names = Mapping[str, str]


def outputs(cuts: Cuts) -> dict[str, Placement]:
    """Return where the outputs of a node lie once it is computed."""
    devices = cuts.devices
    if cuts.op is not None:
        devices = tuple(sorted(device for group in cuts.groups for device in group))
    return {out.name: cuts.placement(out, devices) for out in cuts.site.outputs if out is not None}


def compute(out: RankGraph, cuts: Cuts, names: Names) -> dict[str, str]:
    """Add the node for this rank, given the names of its parts of the inputs.

    Returns the names of its parts of the outputs; none for a rank that does not compute it.
    """
    if out.rank not in cuts.devices:
        return {}
    made = {name: out.free(f"{name}/local") for name in cuts.site.node.output if name}
    if not cuts.parts:
        _whole(out, cuts.site.node, names, made)
        return made
    writer = _Writer(out, cuts, names)
    op = cuts.op
    local = LocalSite(writer, cuts.site, op is not None)
    rule = find_rule(cuts.site.node.domain, cuts.site.node.op_type)
    assert rule is not None
    call = rule.localize(local)
    given = [made.get(name, "") for name in cuts.site.node.output]
    domain = cuts.site.node.domain if call.domain is None else call.domain
    out.named(call.op_type, call.inputs, given, domain=domain, **call.attributes)
    if op is not None:
        return {
            tensor.name: _combine(out, cuts, op, made[tensor.name], tensor, local.is_widened)
            for tensor in cuts.site.outputs
            if tensor is not None
        }
    return made


def _whole(out: RankGraph, node: NodeProto, names: Names, made: Names) -> None:
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.device_configurations[:]
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [made.get(name, "") for name in node.output]
    out.nodes.append(copy)


def _combine(
    out: RankGraph, cuts: Cuts, op: str, name: str, tensor: Tensor, is_widened: bool
) -> str:
    groups = cuts.groups
    if not any(out.rank in group for group in groups):
        return name
    ranks = [rank for group in groups for rank in group]
    reduced = out.communicate("AllReduce", [name], op=op, groups=ranks, group_size=len(groups[0]))
    return out.node("Cast", [reduced], to=tensor.data_type) if is_widened else reduced


class _Writer:
    """What a rule's rewriting adds nodes to."""

    def __init__(self, out: RankGraph, cuts: Cuts, names: Names) -> None:
        self.layout: Layout = cuts.layout(out.rank)
        self.rank = cuts.rank(out.rank)
        self._out, self._names = out, names

    def local(self, tensor: Tensor) -> str:
        return self._names[tensor.name]

    def constant(self, array: npt.NDArray[Any]) -> str:
        return self._out.constant(array)

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self._out.node(op_type, inputs, **attributes)
