"""Which nodes are of another dialect."""

from __future__ import annotations

from onnx import NodeProto

from ..nodes import subgraphs
from . import DIALECTS
from .dialect import Dialect

SPOKEN = {
    (domain, name): dialect
    for dialect in DIALECTS.values()
    for domain in dialect.domains
    for name in (*dialect.forms, *dialect.written_out)
}
"""The dialect of each operator, by its domain and name: no two have the same."""


def dialect_of(node: NodeProto) -> Dialect | None:
    """Return the dialect that a node is in, None for ours and for what does not communicate."""
    dialect = SPOKEN.get((node.domain, node.op_type))
    return dialect if dialect is not None and dialect.speaks(node) else None


def is_foreign(node: NodeProto) -> bool:
    """Say whether a node communicates in another dialect."""
    return dialect_of(node) is not None


def speaks(node: NodeProto, functions: set[tuple[str, str]]) -> bool:
    """Say whether a node, or one in its bodies, is of another dialect, and calls no function."""
    if (node.domain, node.op_type) not in functions and is_foreign(node):
        return True
    return any(speaks(inner, functions) for body in subgraphs(node) for inner in body.node)
