"""ShardingSpecProto of ONNX IR 11, read as placements and written from them.

Two things that the proposals leave open are read as onnx-ir writes them: several devices without a
cut dim each hold the tensor whole, and where no device is named the blocks are dealt out over all
devices of the configuration, in order.
"""

from __future__ import annotations

import math

from onnx import IntIntListEntryProto, ShardedDimProto, ShardingSpecProto, SimpleShardedDimProto

from ..errors import PlacementError
from ..placing.placement import Cut, Factor, Placement
from ..weights import bounds


def read_spec(spec: ShardingSpecProto, rank: int | None, devices: int) -> Placement:
    """Return the placement of a tensor of `rank` dims, None where the rank is not known.

    The configuration has so many `devices`. Raises PlacementError with the rule that is broken.
    """
    groups = dict[int, tuple[int, ...]]()
    for entry in spec.index_to_device_group_map:
        if entry.key in groups:
            raise PlacementError(f"expected each key of the group map once, got {entry.key} twice")
        groups[entry.key] = tuple(entry.value)
    for device in spec.device:
        if device < 0 and device not in groups:
            raise PlacementError(f"expected a device or a key of the group map, got {device}")
    if unused := [key for key in groups if key not in spec.device]:
        raise PlacementError(f"expected keys that name a block's devices, got {unused[0]}")
    cuts = tuple(_read_cut(dim, rank) for dim in spec.sharded_dim)
    held = [groups.get(device, (device,)) for device in spec.device]
    blocks = math.prod(each.shards for each in cuts)
    if not held and 0 < blocks <= devices:
        held = [tuple(range(*bounds(devices, block, blocks))) for block in range(blocks)]
    elif blocks == 1:
        held = [tuple(device for group in held for device in group)]
    return Placement(cuts, tuple(held))


def _read_cut(dim: ShardedDimProto, rank: int | None) -> Cut:
    if rank is not None and not -rank <= dim.axis < rank:
        raise PlacementError(f"expected an axis of -{rank} to {rank - 1}, got {dim.axis}")
    if rank is None and dim.axis < 0:
        raise PlacementError(f"expected the number of dims to be known, since axis is {dim.axis}")
    if not dim.simple_sharding:
        raise PlacementError(f"expected a simple_sharding of axis {dim.axis}, got none")
    axis = dim.axis + (rank or 0) if dim.axis < 0 else dim.axis
    return Cut(axis, tuple(map(_read_factor, dim.simple_sharding)))


def _read_factor(simple: SimpleShardedDimProto) -> Factor:
    which = simple.WhichOneof("dim")
    return Factor(getattr(simple, which) if which else None, simple.num_shards)


def write_spec(name: str, placement: Placement) -> ShardingSpecProto:
    """Return the spec of a tensor; blocks of several devices get a key of the group map."""
    spec = ShardingSpecProto(tensor_name=name)
    keys: dict[tuple[int, ...], int] = {}
    for group in placement.devices:
        if len(group) == 1:
            spec.device.append(group[0])
        else:
            spec.device.append(keys.setdefault(group, -1 - len(keys)))
    spec.index_to_device_group_map.extend(
        IntIntListEntryProto(key=key, value=group) for group, key in keys.items()
    )
    spec.sharded_dim.extend(map(_write_cut, placement.cuts))
    return spec


def _write_cut(each: Cut) -> ShardedDimProto:
    made = ShardedDimProto(axis=each.dim)
    for factor in each.factors:
        simple = made.simple_sharding.add(num_shards=factor.shards)
        if isinstance(factor.size, int):
            simple.dim_value = factor.size
        elif factor.size is not None:
            simple.dim_param = factor.size
    return made
