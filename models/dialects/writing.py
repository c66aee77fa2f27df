"""Nodes of ours, rewritten in the communication operators of another dialect."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, TypeProto, helper

from ..errors import ModelError
from ..groups import members
from ..mesh import Mesh
from ..nodes import label, references, replace_nodes, subgraphs
from ..opset import GROUP, OPS, attributes, is_ours, tensor_type
from .dialect import ABSENT, SELF, Dialect, Form, single

ADVICE = ("algorithm",)
"""Attributes of ours that change no result, and are left out."""


@dataclass
class Writer:
    """What is known of a model while its nodes are rewritten in a dialect."""

    dialect: Dialect
    mesh: Mesh | None
    rank: int | None
    size: int | None
    types: Mapping[str, TypeProto]
    """of values, as far as they are known"""
    scalars: Mapping[str, int]
    """integers among the constants, by name"""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def rewrite(self, holder: GraphProto | FunctionProto) -> None:
        """Rewrite the nodes of a graph or a function, and the bodies that they hold.

        Raises ModelError for a node that cannot be said, and why.
        """
        read = {name for node in holder.node for name in references(node)}
        replace_nodes(holder, [new for node in holder.node for new in self._written(node, read)])

    def _written(self, node: NodeProto, read: set[str]) -> list[NodeProto]:
        for body in subgraphs(node):
            self.rewrite(body)
        if not is_ours(node):
            return [node]
        try:
            if node.op_type in ("Rank", "Size"):
                return [self._folded(node)]
            return list(self._said(node, read))
        except ValueError as error:
            raise ModelError(
                f"{label(node)} cannot be said in {self.dialect.name}: {error}"
            ) from None

    def _folded(self, node: NodeProto) -> NodeProto:
        """Return a constant in place of the number of this rank, or of all."""
        if self.rank is None or self.size is None:
            raise ValueError("it has no such operator, and the model does not say its rank")
        group = members(attributes(node), self.mesh, self.rank, self.size)
        value = group.index(self.rank) if node.op_type == "Rank" else len(group)
        return helper.make_node("Constant", [], list(node.output), node.name, value_int=value)

    def _said(self, node: NodeProto, read: set[str]) -> Iterator[NodeProto]:
        if node.op_type not in OPS:
            raise ValueError("it has no such operator")
        values = attributes(node)
        for name, forms in self.dialect.forms.items():
            for form in forms:
                if form.op == node.op_type and not form.is_owned and _has(form, values):
                    yield from self._in_form(node, name, form, values, read)
                    return
        ops = f" with op={values['op']!r}" if "op" in values else ""
        raise ValueError(f"it has no {node.op_type}{ops}")

    def _in_form(
        self, node: NodeProto, name: str, form: Form, values: dict[str, Any], read: set[str]
    ) -> Iterator[NodeProto]:
        op, stem = OPS[form.op], f"{node.name or node.op_type}.{next(self.numbers)}"
        operands = (op.operand != "none") + (op.peer is not None)
        x = node.input[0] if op.operand != "none" and node.input else ""
        peer = node.input[operands - 1] if op.peer is not None else ""
        if not x and "X" in map(single, form.inputs):
            raise ValueError("it takes a tensor on every rank, and here is none")
        theirs = self._attributes(form, values, x, peer)
        before = [token for token in node.input[operands:] if token]
        given: dict[str, list[str]] = {op.peer or "": [peer], "X": [x]}
        if "token" in map(single, form.inputs):
            yield from _joined(before, f"{stem}/after")
            before = before if len(before) == 1 else [f"{stem}/after"]
            given["token"] = before
        elif before:
            raise ValueError("it has no tokens, which order this node")
        results, token = _results(node)
        taken = {"Y": results, "token": [token or f"{stem}/done"]}
        if token in read and "token" not in map(single, form.outputs):
            raise ValueError("it has no tokens, and another node waits for this one")
        inputs = [name for word in form.inputs for name in given[single(word)]]
        outputs = [name for word in form.outputs for name in taken[single(word)]]
        if form.is_pieces:
            outputs = [f"{stem}/{k}" for k in range(self._count(values))]
        yield helper.make_node(
            name, inputs, outputs, node.name, domain=self.dialect.domains[0], **theirs
        )
        if form.is_pieces:
            yield helper.make_node("Concat", outputs, results, axis=0)

    def _attributes(
        self, form: Form, values: Mapping[str, Any], x: str, peer: str
    ) -> dict[str, Any]:
        """Return the attributes of theirs. Raises ValueError where ours say more."""
        ours = {k: v for k, v in values.items() if k not in (*form.fixed, *form.unsaid, *ADVICE)}
        theirs = {**form.when, **form.ignored}
        if x and OPS[form.op].operand == "optional":
            ours.pop("dtype", None)
        for name, meant in form.attributes.items():
            if meant.ours == OPS[form.op].peer:
                if peer not in self.scalars:
                    raise ValueError(f"it takes {meant.ours} as a number, which is not known")
                theirs[name] = self.scalars[peer]
            elif meant.ours in ours:
                theirs[name] = _inverse(meant.values, ours.pop(meant.ours))
        for name in [name for name, value in theirs.items() if value is SELF]:
            theirs[name] = self._self()
        if form.kinds:
            theirs[form.kinds] = [self._kind(x, ours)]
        theirs |= self._ranks(form, {k: ours.pop(k) for k in GROUP if k in ours})
        if form.is_flat and not self._divides(x, values):
            raise ValueError("it cuts tensors whose dim 0 is known to be a multiple of the ranks")
        if ours:
            said = ", ".join(f"{name}={value!r}" for name, value in ours.items())
            raise ValueError(f"it has no {said}")
        return theirs

    def _kind(self, x: str, ours: dict[str, Any]) -> int:
        kind: int | None = ours.pop("dtype", None) or tensor_type(self.types.get(x))[0]
        if kind is None:
            raise ValueError(f"it takes the element type, and that of {x!r} is not known")
        return kind

    def _self(self) -> int:
        if self.rank is None:
            raise ValueError("it takes the number of this rank, which the model does not say")
        return self.rank

    def _ranks(self, form: Form, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes that say which ranks take part."""
        row, size = self._row(group), self.size
        if row is not None and size is None and form.counts and row == tuple(range(len(row))):
            size = len(row)  # these must be all, or others would be in no group
        is_all = row is None or (size is not None and row == tuple(range(size)))
        if not is_all and not form.members:
            raise ValueError(f"it has no groups, and this is one of the ranks {list(row or ())}")
        counts = dict[str, Any]()
        for name, default in form.counts.items():
            count = size if is_all or name == form.total else len(row or ())
            counts[name] = 0 if is_all and default == 0 and name != form.total else count
        if None in counts.values():
            raise ValueError("it takes the number of ranks, which is not known")
        return counts if is_all else counts | {form.members: list(row or ())}

    def _row(self, group: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return the ranks of the group, None for all."""
        if not group:
            return None
        ranks = list(group.get("groups", ()))
        if ranks and group.get("group_size", len(ranks)) == len(ranks):
            return tuple(ranks)
        if self.rank is None or self.size is None:
            raise ValueError(
                "its group differs between ranks, and the model does not say its rank"
            )
        return members(group, self.mesh, self.rank, self.size)

    def _count(self, values: Mapping[str, Any]) -> int:
        row = self._row({k: values[k] for k in GROUP if k in values})
        count = self.size if row is None else len(row)
        if count is None:
            raise ValueError("it takes the number of ranks, which is not known")
        return count

    def _divides(self, x: str, values: Mapping[str, Any]) -> bool:
        shape = tensor_type(self.types.get(x))[1]
        length = shape[0] if shape else None
        return isinstance(length, int) and length % self._count(values) == 0


def _has(form: Form, values: Mapping[str, Any]) -> bool:
    """Say whether a form has these attributes of ours among those that it can have."""
    if any(values.get(name) != value for name, value in form.fixed.items()):
        return False
    return all(
        meant.values is None
        or meant.ours in GROUP
        or values.get(meant.ours) in meant.values.values()
        for meant in form.attributes.values()
    )


def _inverse(values: Mapping[Any, Any] | None, ours: Any) -> Any:
    if values is None:
        return ours
    for theirs, meant in values.items():
        if meant == ours and meant is not ABSENT:
            return theirs
    raise ValueError(f"it has no {ours!r}")


def _results(node: NodeProto) -> tuple[list[str], str]:
    """Return the names of the result and of the token, "" where there is none."""
    made = [*node.output]
    results = [made.pop(0)] if OPS[node.op_type].gives == "Y" and made else []
    return results, made[0] if made else ""


def _joined(tokens: Sequence[str], made: str) -> Iterator[NodeProto]:
    """Yield what makes one token of none or several."""
    if not tokens:
        always = helper.make_tensor("", TensorProto.BOOL, [], [True])
        yield helper.make_node("Constant", [], [made], value=always)
    last = tokens[:1]
    for k, token in enumerate(tokens[1:], 2):
        name = made if k == len(tokens) else f"{made}.{k}"
        yield helper.make_node("And", [*last, token], [name])
        last = [name]
