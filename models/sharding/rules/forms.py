"""The dims of a tensor, in the forms that an operator takes it in.

Operators that do much in one node say in their attributes what a dim is made of: so many heads, so
many blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..axes import Axis, Conflict, Size, product
from ..rewrite import Call, Local
from ..site import Site, Tensor

WHOLE = None
"""In the place of an axis: the node needs that dim whole."""

Form = Sequence[Axis | None]


def axis_of(size: int) -> Axis:
    """Return a new axis of a size that is given by an attribute."""
    return Axis(Size(size, size))


def merged(*factors: Axis) -> Axis:
    """Return the product of axes, which may be one of size 1."""
    return product(factors) or axis_of(1)


def lay(site: Site, tensor: Tensor | None, *forms: Form) -> None:
    """Tie the dims of a tensor to the axes of the form that has as many dims; None is WHOLE.

    An absent tensor is skipped. Raises Conflict where no form has its number of dims.
    """
    if tensor is None:
        return
    form = next((form for form in forms if len(form) == tensor.rank), None)
    if form is None:
        raise Conflict(f"{tensor.name} has {tensor.rank} dims")
    for dim, axis in zip(tensor.axes, form, strict=True):
        if axis is WHOLE:
            site.whole(dim)
        else:
            site.tie(dim, axis)


def width_of(tensor: Tensor, dim: int = -1) -> int:
    """Return the size of a dim. Raises Conflict where it depends on what is fed."""
    if not tensor.shape[dim].is_static:
        raise Conflict(f"a width of {tensor.name} depends on what is fed")
    return tensor.shape[dim].first


def optional(site: Site, position: int) -> Tensor | None:
    """Return an input, None where it is absent."""
    return site.inputs[position] if site.has(position) else None


def result(site: Site, position: int) -> Tensor | None:
    """Return an output, None where it is absent."""
    return site.outputs[position] if position < len(site.outputs) else None


def tie_or_whole(site: Site, a: Axis | None, b: Axis | None) -> None:
    """Tie two dims; where their structures do not fit, the node needs both whole."""
    try:
        site.tie(a, b)
    except Conflict:
        site.whole(a, b)


def without_bias(local: Local, *positions: int) -> Call:
    """Leave these inputs to the first rank, where the ranks' parts are summed."""
    call = local.unchanged()
    if not local.is_partial or local.rank == 0:
        return call
    inputs = ["" if k in positions else name for k, name in enumerate(call.inputs)]
    while not inputs[-1]:
        inputs.pop()
    return call._replace(inputs=inputs)
