"""Where a rank's graph holds its tensors, and under which names: in the graph, or in a body.

A body reads what lies outside of it. What it needs of that in another form is made outside, next
to where the tensor is, so that it is made once and not in every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from onnx import NodeProto, ValueInfoProto

Form = Literal["whole", "local", "partial", "rows"]
"""All of a tensor, this rank's part of it, its summand, or its rows where others have as many."""


@dataclass
class Scope:
    """The nodes of a graph or of a body so far, and the names of what it holds."""

    times: float = 1.0
    """how often it runs in a run of the usual size"""
    nodes: list[NodeProto] = field(default_factory=list)
    value_info: dict[str, ValueInfoProto] = field(default_factory=dict)
    names: dict[tuple[Form, str], str] = field(default_factory=dict)


class Scopes:
    """The graph, and the bodies within one another that are being written."""

    def __init__(self) -> None:
        self.outermost = Scope()
        self._row = [self.outermost]

    @property
    def inner(self) -> Scope:
        """The scope that nodes are added to."""
        return self._row[-1]

    def name(self, form: Form, tensor: str) -> str | None:
        """Return under which name a tensor is held in a form; None where it is not."""
        found = (scope.names.get((form, tensor)) for scope in reversed(self._row))
        return next(filter(None, found), None)

    def hold(self, form: Form, tensor: str, name: str) -> None:
        """Note that the inner scope holds a tensor."""
        self.inner.names[form, tensor] = name

    @contextmanager
    def body(self, times: float) -> Iterator[Scope]:
        """Write a body."""
        self._row.append(Scope(times))
        yield self._row[-1]
        self._row.pop()

    @contextmanager
    def around(self, form: Form, tensor: str) -> Iterator[str]:
        """Write to the scope that holds a tensor in a form, and give its name there."""
        row = self._row
        depth = max(k for k, scope in enumerate(row) if (form, tensor) in scope.names)
        self._row = row[: depth + 1]
        yield self.inner.names[form, tensor]
        self._row = row
