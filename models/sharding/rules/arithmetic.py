"""Rules of matrix products, convolutions, normalisations and reductions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..axes import Axis, Conflict, Size, product, unify
from ..rewrite import Call, Local
from ..site import Site
from .einsum import apply, einsum


def matmul(site: Site) -> None:
    left = "k" if site.tensor(0).rank == 1 else "...mk"
    right = "k" if site.tensor(1).rank == 1 else "...kn"
    made = "..." + "m" * (left != "k") + "n" * (right != "k")
    apply(site, [left, right], [made])


def gemm(site: Site) -> None:
    left = "km" if site.attribute("transA", 0) else "mk"
    right = "nk" if site.attribute("transB", 0) else "kn"
    bias = "mn"[2 - site.tensor(2).rank :] if site.has(2) else ""
    apply(site, [left, right, bias], ["mn"])


def equation(site: Site) -> None:
    """Read Einsum's own equation."""
    text = site.attribute("equation").replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        once = sorted(letter for letter in letters if letters.count(letter) == 1)
        right = "..." * ("..." in left) + "".join(once)
    if any(len(set(term.replace("...", ""))) < len(term.replace("...", "")) for term in terms):
        raise Conflict("a repeated letter takes a diagonal")
    apply(site, terms, [right])


def conv(site: Site) -> None:
    x, kernel, y = site.tensor(0), site.tensor(1), site.output()
    group = site.attribute("group", 1)
    site.tie(x.axes[0], y.axes[0])
    site.whole(*x.axes[2:], *kernel.axes[2:])
    if group == 1:
        site.tie(x.axes[1], kernel.axes[1])
    else:
        groups = Axis(Size(group, group))
        each = kernel.shape[0].over(groups.size)
        if each is None or x.axes[1] is None or kernel.axes[0] is None:
            raise Conflict(f"{group} groups do not divide the channels")
        _unify_groups(x.axes[1], groups, kernel.axes[1])
        _unify_groups(kernel.axes[0], groups, None if each.first == 1 else Axis(each))
    site.tie(kernel.axes[0], y.axes[1])
    site.contract(kernel.axes[1])
    if site.has(2):
        site.tie(site.tensor(2).axes[0], y.axes[1])


def _unify_groups(axis: Axis, groups: Axis, each: Axis | None) -> None:
    channels = product((groups, each))
    assert channels is not None
    unify(axis, channels)


def local_conv(local: Local) -> Call:
    """Give the number of groups that this rank has, and the bias to one rank's part only."""
    call = bias_once(local)
    group = local.site.attribute("group", 1)
    if group == 1:
        return call
    x, kernel = local.site.tensor(0), local.site.tensor(1)
    channels = local.layout.local(x.axes[1], local.rank).first
    each = local.layout.local(kernel.axes[1], local.rank).first
    return call._replace(attributes={**call.attributes, "group": channels // each})


def bias_once(local: Local) -> Call:
    """Leave the bias, the third input, to the first rank: the parts are summed."""
    call = local.unchanged()
    if not local.is_partial or local.rank == 0:
        return call
    inputs = list(call.inputs[:2])
    if call.op_type == "Gemm" and local.site.opset < 11:  # the bias cannot be left out
        inputs.append(local.constant(np.zeros(1, local.dtype)))
    return call._replace(inputs=inputs)


def softmax(site: Site) -> None:
    x = site.tensor(0)
    site.tie_all(x.axes, site.output().axes)
    if site.opset >= 13:
        site.whole(x.axes[site.attribute("axis", -1)])
    else:
        site.whole(*x.axes[site.attribute("axis", 1) % x.rank :])


AXIS = {"ArgMax": 0, "ArgMin": 0, "LpNormalization": -1, "TopK": -1}
"""The axis where none is given."""


def along_axis(site: Site) -> None:
    """Need the dim `axis` whole, in its place; the others pass."""
    x = site.tensor(0)
    site.parameters()
    axis = _axis(site) % x.rank
    site.whole(x.axes[axis])
    for out in filter(None, site.outputs):
        others = out.axes if out.rank == x.rank else (*out.axes[:axis], None, *out.axes[axis:])
        for k, (a, b) in enumerate(zip(x.axes, others, strict=True)):
            if k != axis:
                site.tie(a, b)


def _axis(site: Site) -> int:
    if site.node.op_type != "CumSum":
        return int(site.attribute("axis", AXIS[site.node.op_type]))
    given = site.constant(1)
    if given is None:
        raise Conflict("the axis is computed when the model runs")
    return int(given.reshape(()))


def layer_normalization(site: Site) -> None:
    x = site.tensor(0)
    axis = site.attribute("axis", -1) % x.rank
    site.whole(*x.axes[axis:])
    for out in filter(None, site.outputs):
        site.tie_all(x.axes, out.axes)
    for parameter in filter(None, site.inputs[1:]):
        site.tie_all(x.axes, parameter.axes)


def batch_normalization(site: Site) -> None:
    if site.attribute("training_mode", 0):
        raise Conflict("training needs the statistics of the whole batch")
    apply(site, ["bc...", "c", "c", "c", "c"], ["bc..."])


FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

COMBINED = {
    "ReduceSum": "sum",
    "ReduceMean": "sum",
    "ReduceL1": "sum",
    "ReduceSumSquare": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
}
"""How the parts of a reduced dim are combined; other reductions need the dim whole."""


def reduction(site: Site) -> None:
    x, y = site.tensor(0), site.output()
    site.parameters()
    axes = site.dims(1)
    if not axes:
        axes = [] if site.attribute("noop_with_empty_axes", 0) else list(range(x.rank))
    kept = [k for k in range(x.rank) if k not in axes]
    keeps_dims = site.attribute("keepdims", 1)
    for place, k in enumerate(kept):
        site.tie(x.axes[k], y.axes[k if keeps_dims else place])
    for k in axes:
        if site.node.op_type in COMBINED and not _rounds(site):
            site.contract(x.axes[k], COMBINED[site.node.op_type])
        else:
            site.whole(x.axes[k])


def _rounds(site: Site) -> bool:
    """Say whether the mean is one of integers, which is rounded once and not per rank."""
    return site.node.op_type == "ReduceMean" and site.tensor(0).data_type not in FLOATS


def local_mean(local: Local) -> Call:
    """Weigh the mean of this rank's part by its length: the parts may differ in it."""
    call = local.unchanged()
    if not local.is_partial:
        return call
    share = 1.0
    for entry in local.site.contracted:
        share *= float(local.layout.fraction(entry.axis, local.rank))
    mean = local.node(call.op_type, call.inputs, **call.attributes)
    return Call("Mul", [mean, local.constant(np.array(share, local.dtype))], {})


pool = einsum("bc...!->bc...")


def max_pool(site: Site) -> None:
    if len(site.outputs) > 1 and site.outputs[1] is not None:
        raise Conflict("its indices count the elements of the whole tensor")
    pool(site)
