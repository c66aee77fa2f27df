"""States: outputs of one run that are inputs of the next, such as a cache of keys and values."""

from __future__ import annotations

import re

from ..graph import Graph

WORD = re.compile("(present|past)(_key_values)?")
"""What exporters call a state: as an output, and as an input."""


def states(graph: Graph) -> dict[str, str]:
    """Return the inputs that outputs become in the next run, by the name of the output.

    They are found by name: `present.0.key` is `past.0.key` or `past_key_values.0.key`.
    """
    inputs = {_plain(value.name): value.name for value in graph.inputs}
    pairs = {value.name: inputs.get(_plain(value.name)) for value in graph.outputs}
    return {name: found for name, found in pairs.items() if found is not None and found != name}


def _plain(name: str) -> str:
    return WORD.sub("past", name)
