"""Nodes of another dialect, rewritten in ours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TypeProto, helper

from ..errors import ModelError
from ..graph import mesh_of
from ..known import types
from ..mesh import Mesh
from ..nodes import attribute, label
from ..opset import DOMAIN, OPS, Op, tensor_type
from .dialect import ABSENT, Attribute, Dialect, Form, single
from .recognition import dialect_of

Shape = tuple[int, ...]

MOST_RANKS = 1 << 20
"""Of a group that is given by its number: a larger one is a mistake."""

ALIGNED = 32
"""Elements: what each rank owns of tensors laid end to end is a multiple of it."""


def _shapes(model: ModelProto) -> dict[str, Shape]:
    """Return the shapes that are known in full, inferred ones too."""
    found = {name: _known(kind) for name, kind in types(model).items()}
    return {name: shape for name, shape in found.items() if shape is not None}


def _known(proto: TypeProto) -> Shape | None:
    dims = tensor_type(proto)[1]
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(dim for dim in dims if isinstance(dim, int))


@dataclass
class Reader:
    """What is known of a model while its nodes are rewritten in ours."""

    model: ModelProto
    """as it was"""
    ranks: int | None
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """so that values that are made up have names of their own"""

    @cached_property
    def functions(self) -> set[tuple[str, str]]:
        return {(function.domain, function.name) for function in self.model.functions}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        return _shapes(self.model)

    @cached_property
    def mesh(self) -> Mesh | None:
        return mesh_of(self.model)

    def read(self, node: NodeProto) -> list[NodeProto]:
        """Return a node in ours. Raises ModelError for one that cannot be said there."""
        dialect = dialect_of(node)
        if dialect is None or (node.domain, node.op_type) in self.functions:
            return [node]
        try:
            if node.op_type in dialect.written_out:
                stem = f"{node.name or node.op_type}.{next(self.numbers)}"
                return list(dialect.written_out[node.op_type](node, stem))
            return list(self._said(node, _form(node, dialect)))
        except ValueError as error:
            raise ModelError(f"{label(node)} of {dialect.name}: {error}") from None

    def _said(self, node: NodeProto, form: Form) -> Iterator[NodeProto]:
        """Yield what says a node in ours: a node for each tensor, one after the other."""
        given, taken = _bound(form.inputs, node.input), _bound(form.outputs, node.output)
        values = _values(node, form) | self._group(node, form)
        op, stem = OPS[form.op], f"{node.name or node.op_type}.{next(self.numbers)}"
        before = [name for name in given.get("token", []) if name]
        peer = given.get(op.peer or "", [])
        if op.peer in values:
            peer = [f"{stem}/{op.peer}"]
            if not isinstance(values[op.peer], int):
                raise ValueError(f"expected {op.peer} to be a rank, got {values[op.peer]!r}")
            yield helper.make_node("Constant", [], peer, value_int=values.pop(op.peer))
        is_needed = op.operand == "required" or form.is_owned
        if is_needed and not all(given["X"] or [""]):
            raise ValueError(f"expected a tensor as its input, got {list(node.input)!r}")
        if form.is_pieces:
            yield from self._pieces(node, [*given["X"], *before], values, stem)
            return
        tensors = _tensors(op, given.get("X", []), taken.get("Y", []))
        kinds = _kinds(node, form, len(tensors))
        for k, (x, y) in enumerate(tensors):
            own = dict(values)
            if kinds and op.operand == "none":
                own["dtype"] = kinds[k]
            if form.is_owned:
                own["root"] = self._owner(given["X"], k, values)
            is_last = k == len(tensors) - 1
            token = taken.get("token", [""])[0] if is_last else f"{stem}/token.{k}"
            name = node.name if k == 0 else f"{node.name or node.op_type}/{k}"
            made = _ours(form.op, [*x, *peer, *before], [*y, *filter(None, [token])], name, own)
            if form.is_flat and not self._divides(x[0], own):
                yield from _flat(made, f"{stem}/{k}")
            else:
                yield made
            before = [token]

    def _group(self, node: NodeProto, form: Form) -> dict[str, Any]:
        """Return which ranks take part, as ours says it."""
        if members := _integers(node, form.members):
            return {"groups": members, "group_size": len(members)}
        found = {name: attribute(node, name, default) for name, default in form.counts.items()}
        for name, value in found.items():
            if not isinstance(value, int) or not 0 <= value <= MOST_RANKS:
                raise ValueError(f"expected {name} to be a number of ranks, got {value!r}")
        counts = sorted({count for count in found.values() if isinstance(count, int) and count})
        if len(counts) > 1:
            raise ValueError(f"expected one number of ranks, got {counts}")
        if not counts or counts[0] == self.ranks:
            return {}
        return {"groups": list(range(counts[0])), "group_size": counts[0]}

    def _size(self, values: Mapping[str, Any]) -> int | None:
        """Return how many ranks take part, if that is known."""
        if "groups" in values:
            return len(values["groups"])
        if "axis_name" in values:
            return None if self.mesh is None else self.mesh.axes.get(values["axis_name"])
        return self.ranks or (None if self.mesh is None else self.mesh.size)

    def _divides(self, name: str, values: Mapping[str, Any]) -> bool:
        """Say whether the parts of all elements are those of dim 0."""
        size, shape = self._size(values), self.shapes.get(name)
        return bool(shape and size and shape[0] % size == 0)

    def _owner(self, names: Sequence[str], k: int, values: Mapping[str, Any]) -> int:
        """Return the rank that owns the k-th of tensors laid end to end.

        That of orttraining/training_ops/cuda/collective/nccl_kernels.cc: an even split of all
        elements, padded to a multiple that is never zero.
        """
        size, shapes = self._size(values), [self.shapes.get(name) for name in names]
        if size is None or None in shapes:
            raise ValueError(
                "expected a known number of ranks and shapes in full, which say who owns what"
            )
        counts = [math.prod(shape) for shape in shapes if shape is not None]
        multiple, before = size * ALIGNED, sum(counts[:k])
        each = (sum(counts) // multiple + 1) * ALIGNED
        owner = before // each
        if before + counts[k] > (owner + 1) * each:
            raise ValueError(f"expected {names[k]!r} to lie in one rank's part of {each} elements")
        return owner

    def _pieces(
        self, node: NodeProto, inputs: list[str], values: dict[str, Any], stem: str
    ) -> Iterator[NodeProto]:
        """Yield ours and what cuts its result into the tensors of the ranks."""
        count, whole = len(node.output), f"{stem}/whole"
        opset = {entry.domain: entry.version for entry in self.model.opset_import}.get("", 1)
        if count != self.ranks:
            values |= {"groups": list(range(count)), "group_size": count}
        yield _ours("AllGather", inputs, [whole], node.name, values)
        how: dict[str, Any] = {"num_outputs": count} if opset >= 18 else {}
        yield helper.make_node("Split", [whole], list(node.output), axis=0, **how)


def _form(node: NodeProto, dialect: Dialect) -> Form:
    forms = dialect.forms[node.op_type]
    for form in forms:
        if form.fits(node):
            return form
    wanted = " or ".join(sorted({_described(form) for form in forms}))
    found = ", ".join(f"{name}={attribute(node, name)!r}" for name in forms[0].when)
    raise ModelError(
        f"{label(node)} of {dialect.name}: expected {wanted}, "
        f"got {len(node.input)} inputs{found and ' and '}{found}"
    )


def _described(form: Form) -> str:
    conditions = [f"{name}={value!r}" for name, value in form.when.items()]
    return ", ".join(conditions) or f"the inputs {', '.join(form.inputs)}"


def _bound(words: Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names that stand for each word."""
    listed = list(names)
    bound = {single(word): listed[k : k + 1] for k, word in enumerate(words)}
    if words and words[-1].endswith("..."):
        bound[single(words[-1])] = listed[len(words) - 1 :]
    return bound


def _tensors(
    op: Op, operands: Sequence[str], results: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
    """Return the operand and the result of each node of ours."""
    takes, gives = op.operand != "none", op.gives == "Y"
    if takes and gives and operands and len(operands) != len(results):
        raise ValueError(f"expected as many results as tensors, got {list(results)}")
    count = max(len(operands) * takes, len(results) * gives, 1)
    return [(list(operands[k : k + 1]), list(results[k : k + 1])) for k in range(count)]


def _integers(node: NodeProto, name: str) -> list[int]:
    """Return the integers of an attribute, none where there is none."""
    found = attribute(node, name) if name else None
    if found is None:
        return []
    if not isinstance(found, Sequence) or not all(isinstance(k, int) for k in found):
        raise ValueError(f"expected {name} to be integers, got {found!r}")
    return list(found)


def _kinds(node: NodeProto, form: Form, count: int) -> list[int]:
    """Return the element types that a node lists, one for each tensor."""
    kinds = _integers(node, form.kinds)
    if form.kinds and len(kinds) != count:
        raise ValueError(f"expected {count} numbers in {form.kinds}, got {kinds!r}")
    return kinds


def _values(node: NodeProto, form: Form) -> dict[str, Any]:
    """Return the attributes of ours."""
    values = dict(form.fixed)
    found = {entry.name: _value(entry) for entry in node.attribute}
    known = {*form.attributes, *form.when, *form.ignored, *form.counts, form.members, form.kinds}
    if unknown := found.keys() - known:
        wanted = sorted(known - {""})
        raise ValueError(f"expected attributes among {wanted}, got {sorted(unknown)}")
    for name, theirs in form.attributes.items():
        said = found.get(name, theirs.default)
        if said is None:
            continue
        ours = _translated_value(name, said, theirs)
        if ours is not ABSENT:
            values[theirs.ours] = ours
    return values


def _translated_value(name: str, said: Any, theirs: Attribute) -> Any:
    if theirs.values is None:
        return said
    if not isinstance(said, str | int) or said not in theirs.values:
        raise ValueError(f"expected {name} among {list(theirs.values)}, got {said!r}")
    return theirs.values[said]


def _value(entry: AttributeProto) -> Any:
    value = helper.get_attribute_value(entry)
    return value.decode() if isinstance(value, bytes) else value


def _ours(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, values: Mapping[str, Any]
) -> NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), name, domain=DOMAIN, **values)


def _flat(node: NodeProto, stem: str) -> Iterator[NodeProto]:
    """Yield a node that works on all elements in a row, whatever the shape."""
    shape, minus_one, row, came = (f"{stem}/{what}" for what in ("shape", "all", "row", "came"))
    yield helper.make_node("Shape", [node.input[0]], [shape])
    yield helper.make_node("Constant", [], [minus_one], value_ints=[-1])
    yield helper.make_node("Reshape", [node.input[0], minus_one], [row])
    result, node.input[0], node.output[0] = node.output[0], row, came
    yield node
    yield helper.make_node("Reshape", [came, shape], [result])
