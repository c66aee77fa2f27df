"""What convolutions and poolings share: a kernel that goes over the places of an image.

A dim of places whose sizes are known passes: a rank makes a run of the output and reads what its
kernel covers, wherever it lies (halo.py). Padding is that of the outermost ranks. Where the output
is as long as the input its places are those of the input, and have one axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..axes import Axis, Conflict, Size, unify
from ..halo import run, sliding
from ..rewrite import Call, Local
from ..site import Site
from ..window import Kernel, Spread, Window

SAME = {"SAME_UPPER", "SAME_LOWER"}
"""Padding that makes the output as long as the input, or as its strides."""

OPEN = "its image is of a size that is known only when the model runs"


def slide(site: Site, kernel: Sequence[Size]) -> None:
    """Go over the dims behind the first two; those that no rank can go over are needed whole."""
    found = [_kernel(site, place, size) for place, size in enumerate(kernel)]
    reasons = [window for window in found if isinstance(window, str)]
    if _auto_pad(site) in SAME and reasons:  # the padding of all dims is to be told
        found = [reasons[0]] * len(found)
    for dim, window in enumerate(found, 2):
        pass_or_whole(site, dim, window)


def spread(site: Site, kernel: Sequence[Size]) -> None:
    """Go over the dims behind the first two with a kernel that makes places of each."""
    for place, size in enumerate(kernel):
        pass_or_whole(site, place + 2, _spread(site, place, size))


def pass_or_whole(site: Site, dim: int, window: Window | str) -> None:
    """Let the places of a dim pass by a window; or need them whole, and note why."""
    if isinstance(window, str):
        site.whole(site.tensor(0).axes[dim], site.output().axes[dim])
        site.note = site.note or window
        return
    site.windows.append(window)
    if window.given.size == window.made.size:
        _tie(window)


def _tie(window: Window) -> None:
    """Let the places of input and output be the same, unless they are made of other factors."""
    try:
        unify(window.given, window.made)
    except Conflict:
        """They may still be cut, each for itself."""


def known(site: Site, dim: int) -> tuple[Axis, Axis] | str:
    """Return the axes of a dim of input and output, or why no rank can go over a part of it."""
    given, made = site.tensor(0).axes[dim], site.output().axes[dim]
    if given is None or made is None:
        return ""
    return (given, made) if given.size.is_static and made.size.is_static else OPEN


def _kernel(site: Site, place: int, kernel: Size) -> Window | str:
    """Return how a dim is gone over, or why no rank can go over a part of it."""
    axes = known(site, place + 2)
    if isinstance(axes, str) or not kernel.is_static:
        return axes if isinstance(axes, str) else OPEN
    given, made = axes
    stride = _of_dim(site, "strides", place, 1)
    span = (kernel.first - 1) * _of_dim(site, "dilations", place, 1) + 1
    length, count = given.size.first, made.size.first
    before = _before(site, place, (count - 1) * stride + span - length)
    after = (count - 1) * stride - before + span - length
    # Each output is to read something, on whatever rank it is.
    if before >= span or after >= span:
        return "its padding is as wide as its kernel"
    if _is_counted(site, place, after):
        return "its mean counts padding, but not what ceil_mode adds to it"
    return Kernel(place + 2, given, made, stride, span, before)


def _spread(site: Site, place: int, kernel: Size) -> Window | str:
    axes = known(site, place + 2)
    if isinstance(axes, str) or not kernel.is_static:
        return axes if isinstance(axes, str) else OPEN
    if site.attribute("output_shape") or _auto_pad(site) in SAME:
        return "its padding follows from the size of its output"
    given, made = axes
    stride = _of_dim(site, "strides", place, 1)
    span = (kernel.first - 1) * _of_dim(site, "dilations", place, 1) + 1
    before = _of_dim(site, "pads", place, 0)
    end = (given.size.first - 1) * stride + span
    # Each output is to be made of some input.
    if span < stride or before >= span or made.size.first + before > end:
        return "it makes places of nothing"
    return Spread(place + 2, given, made, stride, span, before)


def _of_dim(site: Site, name: str, place: int, default: int) -> int:
    given = site.attribute(name)
    return int(given[place]) if given else default


def _before(site: Site, place: int, total: int) -> int:
    """Return the padding before a dim, given that of both sides where it is found by itself."""
    auto = _auto_pad(site)
    if auto == "NOTSET":
        return _of_dim(site, "pads", place, 0)
    total = max(total, 0) if auto != "VALID" else 0
    return total // 2 if auto == "SAME_UPPER" else total - total // 2


def _auto_pad(site: Site) -> str:
    return str(site.attribute("auto_pad", "NOTSET"))


def _is_counted(site: Site, place: int, after: int) -> bool:
    """Say whether a mean counts some padding, and not what a window has beyond it."""
    if not site.attribute("count_include_pad", 0) or not site.attribute("ceil_mode", 0):
        return False
    rank = site.tensor(0).rank - 2
    return _auto_pad(site) == "NOTSET" and after > _of_dim(site, "pads", rank + place, 0)


def padded(local: Local, call: Call) -> Call:
    """Pad what a rank reads where it is at a border of the image, and nowhere else."""
    window = sliding(local.site.windows, local.layout)
    if window is None:
        return call
    pads = _all_pads(local.site)
    made = run(local.layout, window.made, local.rank)
    place = window.dim - 2
    pads[place], pads[place + len(pads) // 2] = window.edges(made)
    kept = {name: value for name, value in call.attributes.items() if name != "auto_pad"}
    if "output_padding" in kept:  # the edges say it
        kept["output_padding"] = [n * (k != place) for k, n in enumerate(kept["output_padding"])]
    return call._replace(attributes={**kept, "pads": pads})


def _all_pads(site: Site) -> list[int]:
    """Return the padding of all dims as the attribute pads has it."""
    count = site.tensor(0).rank - 2
    if _auto_pad(site) not in SAME:
        return list(site.attribute("pads") or [0] * (2 * count))
    edges = [window.edges(range(window.made.size.first)) for window in site.windows]
    return [pad for side in zip(*edges, strict=True) for pad in side]
