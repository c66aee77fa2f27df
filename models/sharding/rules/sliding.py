"""What convolutions and poolings share: a kernel that goes over the places of an image.

A dim of places whose sizes are known passes: a rank makes a run of the output and reads what its
kernel covers, wherever it lies (halo.py). Padding is that of the outermost ranks. Where the output
is as long as the input its places are those of the input, and have one axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..axes import Conflict, Size, unify
from ..halo import run, sliding
from ..rewrite import Call, Local
from ..site import Site
from ..window import Window

SAME = {"SAME_UPPER", "SAME_LOWER"}
"""Padding that makes the output as long as the input, or as its strides."""


def slide(site: Site, kernel: Sequence[Size]) -> None:
    """Go over the dims behind the first two; those that no rank can go over are needed whole."""
    x, y = site.tensor(0), site.output()
    found = [_window(site, place, size) for place, size in enumerate(kernel)]
    if _auto_pad(site) in SAME and None in found:
        found = [None] * len(found)  # the padding of all dims is to be told
    for dim, window in enumerate(found, 2):
        if window is None:
            site.whole(x.axes[dim], y.axes[dim])
            continue
        site.windows.append(window)
        if window.given.size == window.made.size:
            _tie(window)


def _tie(window: Window) -> None:
    """Let the places of input and output be the same, unless they are made of other factors."""
    try:
        unify(window.given, window.made)
    except Conflict:
        """They may still be cut, each for itself."""


def _window(site: Site, place: int, kernel: Size) -> Window | None:
    """Return how a dim is gone over, None where no rank can do so by itself."""
    dim = place + 2
    x, y = site.tensor(0), site.output()
    given, made = x.axes[dim], y.axes[dim]
    if given is None or made is None:
        return None
    if not (given.size.is_static and made.size.is_static and kernel.is_static):
        return None
    stride = _of_dim(site, "strides", place, 1)
    span = (kernel.first - 1) * _of_dim(site, "dilations", place, 1) + 1
    length, count = given.size.first, made.size.first
    before = _before(site, place, (count - 1) * stride + span - length)
    last = (count - 1) * stride - before
    after = last + span - length
    # Each output is to read something, on whatever rank it is.
    if before >= span or after >= span or _is_counted(site, place, after):
        return None
    return Window(dim, given, made, stride, span, before)


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
    pads[place], pads[place + len(pads) // 2] = window.padding(made)
    kept = {name: value for name, value in call.attributes.items() if name != "auto_pad"}
    return call._replace(attributes={**kept, "pads": pads})


def _all_pads(site: Site) -> list[int]:
    """Return the padding of all dims as the attribute pads has it."""
    count = site.tensor(0).rank - 2
    if _auto_pad(site) not in SAME:
        return list(site.attribute("pads") or [0] * (2 * count))
    before = {window.dim - 2: window.before for window in site.windows}
    after = {w.dim - 2: w.padding(range(w.made.size.first))[1] for w in site.windows}
    return [*(before[k] for k in range(count)), *(after[k] for k in range(count))]
