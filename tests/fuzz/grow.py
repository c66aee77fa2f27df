"""Where a graph starts, and which nodes it grows."""

from __future__ import annotations

from functools import cache
from typing import Any

import contrib_graphs
import graphs
import numpy as np
import onnx
from case import fixed
from numpy.random import Generator
from onnx import TensorProto, helper
from operators import OPERATORS

from . import values
from .draft import WIDTHS, Draft, Drawn, Node
from .inside import inside
from .schemas import from_schema, operators
from .special import SPECIAL
from .values import SETTINGS, Array, Value

OPSETS = (8, 9, 10, 11, 12, 13, 17, 18, 20, 21, 23, 24, 26)

RECENT = 4
"""A node reads one of so many tensors that were made last, so that graphs grow long."""

KNOWN = 0.3
"""How often a graph of the tests is the start."""


IN_BODY = 0.15
"""How often a graph is the body of an If or of a Loop."""


def draw(seed: int, number: int) -> Drawn:
    """Return a graph: the same for the same seed and number."""
    rng = np.random.default_rng((seed, number))
    draft = start(rng)
    nodes, tries = 3 + draft.pick(12), 0
    while nodes and tries < 100:
        proposed = propose(draft)
        nodes -= proposed is not None and draft.add(proposed)
        tries += 1
    drawn = draft.finished()
    return inside(drawn, rng) if rng.random() < IN_BODY else drawn


def propose(draft: Draft) -> Node | None:
    """Propose a node of an operator that has a rule; every second time a special one."""
    x = draft.one(draft.values[-RECENT:])
    if not x.rank:  # nothing to cut, and onnxruntime's DFT ends the process
        return None
    known = operators(draft.opset)
    op = draft.one([op for op in known if op in SPECIAL] if draft.pick(2) else known)
    return node(draft, op, x)


def node(draft: Draft, op: str, x: Value) -> Node | None:
    """Propose a node of an operator that reads x, None where none can."""
    return SPECIAL[op](draft, x) if op in SPECIAL else from_schema(draft, op, x)


def start(rng: Generator) -> Draft:
    """Start with one or two inputs, or with a graph of the tests."""
    if rng.random() < KNOWN:
        cases = known()
        if found := begun(cases[rng.integers(len(cases))], rng):
            return found
    width = int(rng.choice(WIDTHS))
    shapes: list[list[int | str]] = [["b", width], ["b", "s", width], ["b", width, 6, 6]]
    others: list[list[int | str]] = [["b", "s"], ["b", width], ["s", 3, width], [4, 7, width]]
    named = [("x", shapes[rng.integers(3)]), ("u", others[rng.integers(4)])]
    named = named[: 1 + (rng.random() < 0.4)]
    given, inputs = list[Value](), list[onnx.ValueInfoProto]()
    for name, shape in named:
        arrays = [
            _random(rng, [n if isinstance(n, int) else sizes[n] for n in shape])
            for sizes in SETTINGS
        ]
        value = values.fed(name, arrays, rng)
        assert value is not None
        given.append(value)
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    imports = [helper.make_opsetid("", int(rng.choice(OPSETS)))]
    graph = helper.make_graph([], "fuzz", inputs, [])
    return Draft(rng, helper.make_model(graph, opset_imports=imports, ir_version=8), given)


def _random(rng: Generator, shape: list[Any]) -> Array:
    """Return numbers of order 1; a third of the time within (0, 1), for logarithms and roots."""
    array = rng.standard_normal(shape) if rng.random() < 0.7 else rng.uniform(0.1, 0.9, shape)
    return array.astype(np.float32)


@cache
def known() -> list[Any]:
    """Return the graphs of the tests."""
    others = map(fixed, graphs.CASES.values())
    return [*OPERATORS.values(), *others, *contrib_graphs.FIXED.values()]


def begun(case: Any, rng: Generator) -> Draft | None:
    """Start with a graph of the tests, None where it cannot be compared."""
    given = [values.fed(name, [array, array], rng) for name, array in case.feeds.items()]
    if not all(given):
        return None
    draft = Draft(rng, case.model, [value for value in given if value])
    draft.values += values.run(case.model, draft.given, rng)
    return draft if len(draft.values) > len(given) else None
