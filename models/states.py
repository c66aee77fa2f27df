"""States: outputs of one run that are inputs of the next, such as a cache of keys and values.

A sharded graph takes and gives them whole, as the model does. Beside that it names where a rank's
part of them comes in and goes out, so that a state may stay on its ranks from run to run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from onnx import ModelProto

from .graph import Graph

KEY = "rankwise.states"
"""Metadata of a sharded graph that lists its states."""

BATCH_KEY = "rankwise.batch"
"""Metadata of a sharded graph: the dims of its inputs that its replicas split."""

WORD = re.compile("(present|past)(_key_values)?")
"""What exporters call a state: as an output, and as an input."""


class State(NamedTuple):
    """A state of a sharded graph: names of it whole, and of a rank's part."""

    output: str
    input: str
    local_output: str
    """"" on a rank that has no part of it"""
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


def ancestors(reads: Sequence[Sequence[str]], producer: Mapping[str, int], name: str) -> set[int]:
    """Return the numbers of the nodes that a tensor is made by.

    `reads` are the names that each node reads, `producer` is the node that makes a name.
    """
    todo, found = [name], set[int]()
    while todo:
        k = producer.get(todo.pop())
        if k is not None and k not in found:
            found.add(k)
            todo += reads[k]
    return found


def to_metadata(states: Sequence[State]) -> dict[str, str]:
    """Return the metadata that lists states; none for none."""
    return {KEY: json.dumps(states)} if states else {}


def states_of(model: ModelProto) -> tuple[State, ...]:
    """Return the states that a model lists in its metadata."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return tuple(State(*names) for names in json.loads(metadata.get(KEY, "[]")))


def batch_metadata(dims: Mapping[str, int]) -> dict[str, str]:
    """Return the metadata that lists the dims that replicas split; none for none."""
    return {BATCH_KEY: json.dumps(dims)} if dims else {}


def batch_of(model: ModelProto) -> dict[str, int]:
    """Return the dims of inputs that replicas split, by input."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return dict(json.loads(metadata.get(BATCH_KEY, "{}")))
