"""ParallelFor: one model for all ranks, whose body each of them runs with an id of its own.

    results = ParallelFor(count, captured...) <body, returns = "first" | "concat", dim = 0>

The body takes the id, an int64 scalar, and the captured values; it may read other names from
outside too. Ids 0 to count - 1 are dealt to the ranks of the group in blocks, as numpy.array_split
deals, so that rank r has id r where there are as many ids as ranks. A rank runs its ids one after
another. A result is that of id 0, or those of all ids along dim, in the order of ids, on every
rank. The ranks agree on the count; a body that communicates needs one id for each rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import NodeProto
from onnx.defs import OpSchema

from .errors import ModelError
from .nodes import label
from .opset import (
    ANNOTATION,
    COMMON,
    DOMAIN,
    TENSORS,
    VERSION,
    Kind,
    formal_attribute,
    with_defaults,
)

PARALLEL_FOR = "ParallelFor"

RETURNS = ("first", "concat")

_DECLARED = {
    "body": Kind.GRAPH,
    "returns": "first",
    "dim": 0,
    **{name: value for name, value in COMMON.items() if name != "algorithm"},
    **ANNOTATION,
}


def parallel_attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a ParallelFor, with defaults.

    Raises ModelError, with the node, for unknown ones, and for a body that is missing or that does
    not fit the inputs and outputs of the node.
    """
    try:
        values = with_defaults(node, _DECLARED)
        _check(node, values)
    except ValueError as error:
        raise ModelError(f"{label(node)}: {error}") from None
    return values


def _check(node: NodeProto, values: Mapping[str, Any]) -> None:
    if "body" not in values:
        raise ValueError("expected a graph as the attribute body, got none")
    if values["returns"] not in RETURNS:
        raise ValueError(f"expected returns of {', '.join(RETURNS)}, got {values['returns']!r}")
    if not node.input or not node.input[0]:
        raise ValueError(f"expected a count as the first input, got {list(node.input)!r}")
    body, given, made = values["body"], len(node.input), len(node.output)
    if given != len(body.input):
        raise ValueError(f"expected {given} inputs of its body, got {len(body.input)}")
    if made != len(body.output):
        raise ValueError(f"expected {made} outputs of its body, got {len(body.output)}")


def register() -> None:
    """Make the operator known to onnx; a second call does nothing."""
    if onnx.defs.has(PARALLEL_FOR, VERSION, DOMAIN):
        return
    variadic = OpSchema.FormalParameterOption.Variadic
    several: dict[str, Any] = {"param_option": variadic, "is_homogeneous": False}
    parameter = OpSchema.FormalParameter
    onnx.defs.register_schema(
        OpSchema(  # type: ignore[call-arg]  # onnx's stub lacks node_determinism
            PARALLEL_FOR, DOMAIN, VERSION, (__doc__ or "").strip(),
            inputs=[
                parameter("count", "tensor(int64)", "ids, a scalar"),
                parameter("captured", "V", "for the body", min_arity=0, **several),
            ],
            outputs=[parameter("results", "T", "of id 0, or of all ids", **several)],
            type_constraints=[
                ("V", list(TENSORS), "any tensor but of strings"),
                ("T", list(TENSORS), "any tensor but of strings"),
            ],
            attributes=[
                formal_attribute(name, value)
                for name, value in _DECLARED.items()
                if name != "body"
            ] + [OpSchema.Attribute("body", Kind.GRAPH, required=True)],
            node_determinism=OpSchema.NodeDeterminism.NonDeterministic,
        )
    )  # fmt: skip


register()
