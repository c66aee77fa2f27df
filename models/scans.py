"""What a Scan says of itself: how many tensors it goes along, along which dims, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onnx import GraphProto, NodeProto

from .errors import ModelError
from .nodes import attribute, label


class Scanned(NamedTuple):
    """The attributes of a Scan; dims may count from the end."""

    states: int
    """inputs that are no tensors to go along"""
    input_dims: tuple[int, ...]
    input_reversed: tuple[bool, ...]
    output_dims: tuple[int, ...]
    output_reversed: tuple[bool, ...]


def scanned(node: NodeProto) -> Scanned:
    """Read the attributes of a Scan. Raises ModelError for such as do not fit it."""
    body = attribute(node, "body")
    count = attribute(node, "num_scan_inputs", 0)
    if not isinstance(body, GraphProto):
        raise ModelError(f"{label(node)}: expected a graph as the attribute body, got {body!r}")
    if not isinstance(count, int) or not 1 <= count <= len(node.input):
        raise ModelError(
            f"{label(node)}: expected num_scan_inputs from 1 to {len(node.input)} inputs, "
            f"got {count}"
        )
    if len(node.output) != len(body.output):
        raise ModelError(
            f"{label(node)}: expected {len(node.output)} outputs of its body, "
            f"got {len(body.output)}"
        )
    states = len(node.input) - count
    stacked = len(body.output) - states
    if stacked < 0:
        raise ModelError(
            f"{label(node)}: expected its {states} states among the outputs of its body, "
            f"got {len(body.output)} of these"
        )
    return Scanned(
        states,
        _listed(node, "scan_input_axes", count),
        tuple(map(bool, _listed(node, "scan_input_directions", count))),
        _listed(node, "scan_output_axes", stacked),
        tuple(map(bool, _listed(node, "scan_output_directions", stacked))),
    )


def _listed(node: NodeProto, name: str, count: int) -> tuple[int, ...]:
    values = attribute(node, name, [0] * count)
    if not isinstance(values, Sequence) or not all(isinstance(value, int) for value in values):
        raise ModelError(f"{label(node)}: expected integers as {name}, got {values!r}")
    if len(values) != count:
        raise ModelError(f"{label(node)}: expected {count} {name}, got {len(values)}")
    return tuple(values)


def counted(node: NodeProto, name: str, dim: int, rank: int) -> int:
    """Count a dim of a Scan from the first one. Raises ModelError for one that there is not."""
    if not -rank <= dim < rank:
        raise ModelError(f"{label(node)}: expected {name} from {-rank} to {rank - 1}, got {dim}")
    return dim % rank
