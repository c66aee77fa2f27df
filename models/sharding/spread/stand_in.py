"""Sizes of states that are asked for on another stage than theirs.

An exporter may take the length of a text from the cache of any layer, which is on one stage only.
Another cache of the same declared sizes, on the stage that asks, tells as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import NodeProto

from ...nodes import references, renamed
from ...shapes import dims
from ..analysis import Analysis
from ..kept import are_alike
from ..layout import Layout
from ..part import Part

SIZES = {"Shape", "Size"}


def with_stand_ins(
    analysis: Analysis, layout: Layout, part: Part, stage_of: Sequence[int | None]
) -> list[NodeProto]:
    """Return the nodes of a part; those that read sizes of a state read one of their own stage."""
    nodes = list(part.nodes)
    forms = {form: name for form, name in part.forms.items() if name in analysis.states.values()}
    homes = _homes(part, forms, stage_of)
    for k, node in enumerate(nodes):
        form = node.input[0] if node.op_type in SIZES else ""
        if form in homes and stage_of[k] not in (None, homes[form]):
            for other in _others(analysis, layout, form, forms):
                if homes.get(other) == stage_of[k]:
                    nodes[k] = renamed(node, {form: other})
                    break
    return nodes


def _homes(
    part: Part, forms: dict[str, str], stage_of: Sequence[int | None]
) -> dict[str, int | None]:
    """Return the stage on which what a rank has of a state is read, but for its sizes."""
    return {
        name: stage
        for node, stage in zip(part.nodes, stage_of, strict=True)
        if node.op_type not in SIZES
        for name in references(node)
        if name in forms
    }


def _others(analysis: Analysis, layout: Layout, form: str, forms: dict[str, str]) -> Iterator[str]:
    """Yield what a rank has of other states that is of the same sizes."""
    declared = {value.name: dims(value) for value in analysis.graph.inputs}
    name = forms[form]
    for other, state in forms.items():
        tensors = analysis.tensors[name], analysis.tensors[state]
        are_forms_alike = (form == name) == (other == state)
        has_sizes = state != name and declared[state] == declared[name]
        if are_forms_alike and has_sizes and are_alike(*tensors, layout):
            yield other
