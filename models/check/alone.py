"""What is wrong with one rank's call, whatever the others do."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import helper

from ...collectives.reduction import reduction
from ...collectives.table import SPECIAL, TABLE, lookup
from ..functions.lowering import COLLECTIVES
from ..opset import DIMS, OPS
from .events import Event
from .findings import Finding


def flaws(event: Event) -> Iterator[Finding]:
    """Yield what no other rank could make good."""
    for check in (_operand, _root, _tag, _dims, _names):
        for text in check(event):
            yield event.finding("mismatch", text)


def _operand(event: Event) -> Iterator[str]:
    attributes = event.step.attributes
    if event.value is None and event.op in OPS and OPS[event.op].gives == "Y":
        if attributes.get("root") == event.place:
            yield "expected an operand, since this rank is root, got none"
        elif "dtype" not in attributes:
            yield "expected the attribute dtype, since there is no operand, got none"


def _root(event: Event) -> Iterator[str]:
    root = event.step.attributes.get("root", 0)
    if not 0 <= root < len(event.group):
        yield f"expected root to be a rank below {len(event.group)}, got {root}"


def _tag(event: Event) -> Iterator[str]:
    tag = event.step.attributes.get("tag", 0)
    if tag < 0:
        yield f"expected a tag of at least 0, got {tag}"


def _dims(event: Event) -> Iterator[str]:
    if event.operand.shape is None or event.op == "ParallelFor":
        return
    rank = len(event.operand.shape) or 1  # a scalar counts as one element
    for name in DIMS:
        dim = event.step.attributes.get(name, 0)
        if not -rank <= dim < rank:
            yield f"expected {name} from {-rank} to {rank - 1}, got {dim}"


def _names(event: Event) -> Iterator[str]:
    """Look up what attributes name: a reduction and an algorithm."""
    attributes, dtype = event.step.attributes, event.operand.dtype
    collective, algorithm = COLLECTIVES.get(event.op, ""), attributes.get("algorithm", "auto")
    try:
        if "op" in attributes and dtype is not None:
            reduction(attributes["op"], helper.tensor_dtype_to_np_dtype(dtype))
        if collective in TABLE and algorithm not in SPECIAL:
            lookup(collective, algorithm)
    except (ValueError, TypeError) as error:
        yield str(error)
