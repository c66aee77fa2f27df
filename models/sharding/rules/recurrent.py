"""Rules of operators that go through a sequence step by step."""

from __future__ import annotations

from ..axes import Axis
from ..site import Site, Tensor

WHOLE = "hidden units stay together: every step needs all of them; the batch passes"


def recurrent(site: Site) -> None:
    """RNN, GRU, LSTM: sequences of a batch are independent; a step needs all of the state."""
    is_batch_first = bool(site.attribute("layout", 0))
    inner = 0 if is_batch_first else 1
    batch = site.tensor(0).axes[inner]
    places = {0: inner, 4: 0, 5: inner, 6: inner}
    for position, tensor in enumerate(site.inputs):
        if tensor is not None:
            _batch_passes(site, tensor, places.get(position), batch)
    for position, tensor in enumerate(site.outputs):
        if tensor is not None:
            place = inner if position or is_batch_first else 2
            _batch_passes(site, tensor, place, batch)


def _batch_passes(site: Site, tensor: Tensor, place: int | None, batch: Axis | None) -> None:
    for dim, axis in enumerate(tensor.axes):
        if dim == place:
            site.tie(axis, batch)
        else:
            site.whole(axis)


def reverse_sequence(site: Site) -> None:
    """Each sequence of the batch has a length of its own."""
    x = site.tensor(0)
    batch = site.attribute("batch_axis", 1)
    site.tie_all(x.axes, site.output().axes)
    site.tie(x.axes[batch], site.tensor(1).axes[0])
    site.whole(x.axes[site.attribute("time_axis", 0)])
