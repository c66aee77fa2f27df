"""One node on one device: its parts of the inputs go in, and what is partial is combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from ..errors import PlacementError
from ..nodes import copied
from ..sharding.layout import Layout
from ..sharding.local_site import LocalSite
from ..sharding.rules import find_rule
from ..sharding.site import Tensor
from .cuts import Cuts, shape_of
from .exchanges import Groups, of_groups
from .placement import Box, Placement, sizes_of
from .rank_graph import RankGraph

Names = Mapping[str, str]
Places = Mapping[str, Placement]


class Scattering(NamedTuple):
    """A ReduceScatter along a dim; the groups of devices, each in the order of its parts."""

    dim: int
    groups: Groups


def outputs(cuts: Cuts, wanted: Places) -> dict[str, Placement]:
    """Return where the outputs of a node lie once it is computed.

    Partial ones that are wanted in parts are scattered as they are reduced.
    """
    made = {out.name: natural(cuts, out) for out in cuts.site.outputs if out is not None}
    return made | {
        out.name: wanted[out.name]
        for out in cuts.site.outputs
        if out is not None and scattering(cuts, out, wanted.get(out.name)) is not None
    }


def natural(cuts: Cuts, tensor: Tensor) -> Placement:
    """Return where an output lies if nothing is asked for: sums on all that took part."""
    devices = cuts.devices
    if cuts.op is not None:
        devices = tuple(sorted(device for group in cuts.groups for device in group))
    return cuts.placement(tensor, devices)


def scattering(cuts: Cuts, tensor: Tensor, wanted: Placement | None) -> Scattering | None:
    """Return the ReduceScatter after which an output lies as it is wanted, if there is one."""
    if cuts.op is None or wanted is None or not tensor.has_shape:
        return None
    here = natural(cuts, tensor)
    try:
        sizes = sizes_of(shape_of(tensor), here, wanted)
        before, after = here.held(sizes), wanted.held(sizes)
    except PlacementError:
        return None
    if before.keys() != after.keys():
        return None
    for dim in range(tensor.rank):
        groups = tuple(
            tuple(sorted(group, key=lambda device: after[device][dim].tolist()))
            for group in cuts.groups
        )
        if all(_is_scattered(before, after, dim, group) for group in groups):
            return Scattering(dim, groups)
    return None


def _is_scattered(
    before: Mapping[int, Box], after: Mapping[int, Box], dim: int, group: Sequence[int]
) -> bool:
    parts = np.array_split(before[group[0]][dim], len(group))
    return len(group) > 1 and all(
        np.array_equal(after[device][k], part if k == dim else before[device][k])
        for device, part in zip(group, parts, strict=True)
        for k in range(len(before[device]))
    )


def compute(out: RankGraph, cuts: Cuts, names: Names, wanted: Places) -> dict[str, str]:
    """Add the node for this rank, given the names of its parts of the inputs.

    Returns the names of its parts of the outputs, which lie as `outputs` says; none for a rank
    that does not compute the node.
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
            tensor.name: _combine(
                out,
                (op, scattering(cuts, tensor, wanted.get(tensor.name)), cuts.groups),
                made[tensor.name],
                tensor.data_type if local.is_widened else None,
            )
            for tensor in cuts.site.outputs
            if tensor is not None
        }
    return made


def _whole(out: RankGraph, node: NodeProto, names: Names, made: Names) -> None:
    copy = copied(node)
    del copy.device_configurations[:]
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [made.get(name, "") for name in node.output]
    out.nodes.append(copy)


def _combine(
    out: RankGraph,
    how: tuple[str, Scattering | None, Sequence[tuple[int, ...]]],
    name: str,
    data_type: int | None,
) -> str:
    """Combine the devices' parts of an output; cast what was widened."""
    op, scattered, groups = how
    if not any(out.rank in group for group in groups):
        return name
    if scattered is not None:
        taking = of_groups(scattered.groups)
        reduced = out.communicate("ReduceScatter", [name], op=op, dim=scattered.dim, **taking)
    else:
        reduced = out.communicate("AllReduce", [name], op=op, **of_groups(groups))
    return reduced if data_type is None else out.node("Cast", [reduced], to=data_type)


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
