"""Rules of matrix products, normalisations and reductions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..axes import Axis, Conflict, Size, product
from ..rewrite import Call, Local
from ..site import Site
from .einsum import apply, einsum, product_terms
from .replicated import DRAWN
from .sliding import padded, slide


def matmul(site: Site) -> None:
    left, right, made = product_terms(site.tensor(0), site.tensor(1))
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
    if site.node.op_type not in ("CumSum", "CumProd"):
        return int(site.attribute("axis", AXIS[site.node.op_type]))
    given = site.constant(1)
    if given is None:
        raise Conflict("the axis is computed when the model runs")
    return int(given.reshape(()))


def groups(site: Site) -> None:
    """Groups of channels pass; before opset 21 scale and bias are one of a group."""
    x, y = site.tensor(0), site.output()
    count = site.attribute("num_groups")
    group = Axis(Size(count, count))
    each = x.shape[1].over(group.size)
    if each is None:
        raise Conflict(f"{count} groups do not divide {x.shape[1].first} channels")
    inner = Axis(each)
    site.tie(x.axes[1], product((group, inner)))
    site.tie_all(x.axes, y.axes)
    site.whole(inner, *x.axes[2:])
    for position in (1, 2):
        for axis in site.tensor(position).axes:  # onnxruntime takes a scalar too
            site.tie(axis, group if site.opset < 21 else x.axes[1])


def local_groups(local: Local) -> Call:
    """Count this rank's groups."""
    call, x = local.unchanged(), local.site.tensor(0)
    count = call.attributes["num_groups"]
    inner = x.shape[1].over(Size(count, count))
    assert inner is not None
    ours = local.layout.local(x.axes[1], local.rank).over(inner)
    assert ours is not None
    return call._replace(attributes={**call.attributes, "num_groups": ours.first})


def layer_normalization(site: Site) -> None:
    x = site.tensor(0)
    axis = site.attribute("axis", -1) % x.rank
    site.whole(*x.axes[axis:])
    for out in filter(None, site.outputs):
        site.tie_all(x.axes, out.axes)
    for parameter in filter(None, site.inputs[1:]):
        site.tie_all(x.axes, parameter.axes)


def along_dims(site: Site) -> None:
    """MeanVarianceNormalization needs whole what it takes the mean over.

    onnxruntime takes the default, which is of images, for tensors of fewer dims too.
    """
    x = site.tensor(0)
    site.tie_all(x.axes, site.output().axes)
    given = site.attribute("axes", [0, 2, 3])
    site.whole(*(x.axes[dim] for dim in given if dim < x.rank))


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
        if site.node.op_type in COMBINED and not _needs_all(site):
            site.contract(x.axes[k], COMBINED[site.node.op_type])
        else:
            site.whole(x.axes[k])


def _needs_all(site: Site) -> bool:
    """Say whether a mean cannot be put together from weighed ones.

    A mean of integers is rounded once, not per rank; and before opset 7 onnxruntime has no Mul.
    """
    is_float = site.tensor(0).data_type in FLOATS
    return site.node.op_type == "ReduceMean" and (not is_float or site.opset < 7)


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


def kernel_pool(site: Site) -> None:
    """Channels pass, and places with what the kernel reads beside them."""
    x, y = site.tensor(0), site.output()
    site.tie_all(x.axes[:2], y.axes[:2])
    slide(site, [Size(size, size) for size in site.attribute("kernel_shape")])


def max_pool(site: Site) -> None:
    if len(site.outputs) > 1 and site.outputs[1] is not None:
        raise Conflict("its indices count the elements of the whole tensor")
    kernel_pool(site)


def local_pool(local: Local) -> Call:
    return padded(local, local.unchanged())


GLOBAL = {"GlobalAveragePool": "sum", "GlobalMaxPool": "max"}
"""How what ranks find of their part of an image is combined."""


def global_pool(site: Site) -> None:
    """Places are summed over, or the largest is found. Before opset 7 onnxruntime has no Mul."""
    x, y = site.tensor(0), site.output()
    site.tie_all(x.axes[:2], y.axes[:2])
    for axis in x.axes[2:]:
        if site.opset < 7 and site.node.op_type == "GlobalAveragePool":
            site.whole(axis)
        else:
            site.contract(axis, GLOBAL[site.node.op_type])


def dropout(site: Site) -> None:
    if site.has(2) and (site.constant(2) is None or site.constant(2)):
        raise Conflict(DRAWN)
    for out in filter(None, site.outputs):
        site.tie_all(site.tensor(0).axes, out.axes)


def fourier(site: Site) -> None:
    """DFT needs whole the dim that it transforms, and the last one: real and imaginary parts."""
    x, y = site.tensor(0), site.output()
    site.parameters()
    axis = site.attribute("axis", 1) if site.opset < 20 else -2
    if site.has(2):
        given = site.constant(2)
        if given is None:
            raise Conflict("the axis is computed when the model runs")
        axis = int(given.reshape(()))
    for dim in range(x.rank):
        if dim in (axis % x.rank, x.rank - 1):
            site.whole(x.axes[dim])
        else:
            site.tie(x.axes[dim], y.axes[dim])


def windows(site: Site) -> None:
    """STFT: signals of a batch are independent of one another."""
    x = site.tensor(0)
    site.parameters()
    site.tie(x.axes[0], site.output().axes[0])
    site.whole(*x.axes[1:])
