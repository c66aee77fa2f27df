"""States: outputs of one run that are inputs of the next, such as a cache of keys and values.

A sharded graph takes and gives them whole, as the model does. Beside that it names where a rank's
part of them comes in and goes out, so that a state may stay on its ranks from run to run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from onnx import ModelProto, NodeProto

from .graph import Graph
from .nodes import references

KEY = "rankwise.states"
"""Metadata of a sharded graph that lists its states."""

WORD = re.compile("(present|past)(_key_values)?")
"""What exporters call a state: as an output, and as an input."""


class State(NamedTuple):
    """A state of a sharded graph: names of it whole, and of a rank's part."""

    output: str
    input: str
    local_output: str
    local_input: str


def pairs(graph: Graph) -> dict[str, str]:
    """Return the inputs that outputs become in the next run, by the name of the output.

    They are found by name: `present.0.key` is `past.0.key` or `past_key_values.0.key`.
    """
    inputs = {_plain(value.name): value.name for value in graph.inputs}
    found = {value.name: inputs.get(_plain(value.name)) for value in graph.outputs}
    return {name: fed for name, fed in found.items() if fed is not None and fed != name}


def _plain(name: str) -> str:
    return WORD.sub("past", name)


def makers(nodes: Sequence[NodeProto]) -> dict[str, int]:
    """Return the number of the node that makes a tensor, by the tensor's name."""
    return {name: k for k, node in enumerate(nodes) for name in node.output if name}


def ancestors(nodes: Sequence[NodeProto], makers: Mapping[str, int], name: str) -> set[int]:
    """Return the numbers of the nodes that a tensor is made by."""
    found, left = set[int](), [name]
    while left:
        number = makers.get(left.pop())
        if number is not None and number not in found:
            found.add(number)
            left += references(nodes[number])
    return found


def to_metadata(states: Sequence[State]) -> dict[str, str]:
    """Return the metadata that lists states; none for none."""
    return {KEY: json.dumps(states)} if states else {}


def states_of(model: ModelProto) -> tuple[State, ...]:
    """Return the states that a model lists in its metadata."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return tuple(State(*names) for names in json.loads(metadata.get(KEY, "[]")))
