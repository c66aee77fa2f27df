"""Rules of convolutions: channels pass, are summed over, or fall into groups.

The places of an image pass with those that the kernel reads beside them (sliding.py), but for
convolutions that take them from anywhere.
"""

from __future__ import annotations

import numpy as np

from ..axes import Axis, Conflict, Size, product, unify
from ..rewrite import Call, Local
from ..site import Site
from .quantization import of_channels
from .sliding import padded, slide, spread


def conv(site: Site) -> None:
    """Channels in are summed over, within each group."""
    _channels(site, kernel=1)
    _places(site, kernel=1)
    site.contract(site.tensor(1).axes[1])
    _bias(site, 2)


def conv_integer(site: Site) -> None:
    """Zero points are of the whole input, and of the kernel or each channel out."""
    kernel = site.tensor(1)
    _channels(site, kernel=1)
    _places(site, kernel=1)
    site.contract(kernel.axes[1])
    of_channels(site, 3, kernel.axes[0])


def qlinear_conv(site: Site) -> None:
    """What is summed is rounded, once: channels in are needed whole."""
    kernel = site.tensor(3)
    _channels(site, kernel=3)
    _places(site, kernel=3)
    site.whole(kernel.axes[1])
    for position in (4, 5):
        of_channels(site, position, kernel.axes[0])
    _bias(site, 8)


def deform_conv(site: Site) -> None:
    """Offsets and mask are of each image; where they are in groups, channels stay whole."""
    x, kernel, y = site.tensor(0), site.tensor(1), site.output()
    for tensor in filter(None, (site.tensor(2), *site.inputs[4:])):
        site.tie(tensor.axes[0], x.axes[0])
        site.whole(*tensor.axes[1:])
    if site.attribute("offset_group", 1) == 1 and site.attribute("group", 1) == 1:
        _channels(site, kernel=1)
        site.whole(*x.axes[2:], *kernel.axes[2:])
        site.contract(kernel.axes[1])
        _bias(site, 3)
    else:
        site.tie(x.axes[0], y.axes[0])
        bias = site.tensor(3).axes if site.has(3) else ()
        site.whole(*x.axes[1:], *kernel.axes, *bias)


def conv_transpose(site: Site) -> None:
    """The kernel has all channels in, and the channels out of one group."""
    x, kernel, y = site.tensor(0), site.tensor(1), site.output()
    site.tie(x.axes[0], y.axes[0])
    site.tie(x.axes[1], kernel.axes[0])
    site.whole(*kernel.axes[2:])
    spread(site, kernel.shape[2:])
    group = site.attribute("group", 1)
    if group == 1:
        site.contract(kernel.axes[0])
        site.tie(kernel.axes[1], y.axes[1])
    else:
        groups, each = _groups(group, kernel.shape[0])
        _unify_groups(kernel.axes[0], groups, each)
        _unify_groups(y.axes[1], groups, kernel.axes[1])
        site.contract(each)
    _bias(site, 2)


def _channels(site: Site, kernel: int) -> None:
    """Tie batch and channels; the kernel has all channels out, and those in of one group."""
    x, k, y = site.tensor(0), site.tensor(kernel), site.output()
    site.tie(x.axes[0], y.axes[0])
    group = site.attribute("group", 1)
    if group == 1:
        site.tie(x.axes[1], k.axes[1])
    else:
        groups, each = _groups(group, k.shape[0])
        _unify_groups(x.axes[1], groups, k.axes[1])
        _unify_groups(k.axes[0], groups, each)
    site.tie(k.axes[0], y.axes[1])


def _places(site: Site, kernel: int) -> None:
    """Go over the places; the kernel is needed whole."""
    dims = site.tensor(kernel).axes[2:], site.tensor(kernel).shape[2:]
    site.whole(*dims[0])
    slide(site, dims[1])


def _bias(site: Site, position: int) -> None:
    if site.has(position):
        site.tie(site.tensor(position).axes[0], site.output().axes[1])


def _groups(count: int, channels: Size) -> tuple[Axis, Axis]:
    """Return the axes of the groups, and of the channels in one."""
    groups = Size(count, count)
    each = channels.over(groups)
    if each is None:
        raise Conflict(f"{count} groups do not divide {channels.first} channels")
    return Axis(groups), Axis(each)


def _unify_groups(axis: Axis | None, groups: Axis, each: Axis | None) -> None:
    channels = product((groups, each))
    if axis is None or channels is None:
        raise Conflict("its groups are not those of its channels")
    unify(axis, channels)


def local_conv(local: Local) -> Call:
    """Give the number of groups that this rank has, and the bias to one rank's part only."""
    x, kernel = local.site.tensor(0), local.site.tensor(1)
    return padded(local, _with_groups(local, bias_once(local), x.axes[1], kernel.axes[1]))


def local_conv_integer(local: Local) -> Call:
    x, kernel = local.site.tensor(0), local.site.tensor(1)
    return padded(local, _with_groups(local, local.unchanged(), x.axes[1], kernel.axes[1]))


def local_qlinear_conv(local: Local) -> Call:
    x, kernel = local.site.tensor(0), local.site.tensor(3)
    return padded(local, _with_groups(local, local.unchanged(), x.axes[1], kernel.axes[1]))


def local_deform_conv(local: Local) -> Call:
    return bias_once(local, 3)


def local_conv_transpose(local: Local) -> Call:
    y, kernel = local.site.output(), local.site.tensor(1)
    return padded(local, _with_groups(local, bias_once(local), y.axes[1], kernel.axes[1]))


def _with_groups(local: Local, call: Call, channels: Axis | None, each: Axis | None) -> Call:
    """Count this rank's groups: its channels over those of one group."""
    if local.site.attribute("group", 1) == 1:
        return call
    count = local.layout.local(channels, local.rank).over(local.layout.local(each, local.rank))
    assert count is not None
    return call._replace(attributes={**call.attributes, "group": count.first})


def bias_once(local: Local, position: int = 2) -> Call:
    """Leave the bias to the first rank: the parts are summed."""
    call = local.unchanged()
    if not local.is_partial or local.rank == 0 or not local.site.has(position):
        return call
    inputs = list(call.inputs)
    is_needed = call.op_type == "Gemm" and local.site.opset < 11
    inputs[position] = local.constant(np.zeros(1, local.dtype)) if is_needed else ""
    return call._replace(inputs=inputs)
