"""Makes a plan ready to run: a session for each fragment, a program for each body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
from onnx import TypeProto, helper, numpy_helper

from ..models.opset import tensor_type
from ..models.plan import Communicate, Compute, Control, Plan
from .execute import Program
from .flow import Ends, Types, agreed, communicated, controlled, formal
from .fragment import Fragment, Source, fragment, take_weights_from
from .groups import Group, Groups


@dataclass(frozen=True)
class Setting:
    """What all fragments of a model are made with."""

    folder: Path | None
    """where external data lies"""
    options: onnxruntime.SessionOptions
    providers: Sequence[Any]
    groups: Groups
    outlines: Sequence[str]
    """the control flow of each rank: those of a group that have the same agree before bodies"""

    def agrees(self, group: Group) -> bool:
        """Say whether the ranks of a group can compare notes before a body."""
        return len({self.outlines[rank] for rank in group.ranks}) == 1


def prepare(plan: Plan, setting: Setting) -> tuple[Program, Types]:
    """Make the sessions of a plan; return it ready to run, and the types of its values.

    Raises ModelError where onnxruntime refuses a fragment.
    """
    take_weights_from(setting.folder, setting.options)
    types = {value.name: value.type for value in plan.model.graph.input}
    return _prepared(plan, setting, types, ())


def _prepared(
    plan: Plan, setting: Setting, types: Types, path: tuple[str, ...]
) -> tuple[Program, Types]:
    graph = plan.model.graph
    constants = {
        tensor.name: numpy_helper.to_array(tensor, str(setting.folder or ""))
        for tensor in graph.initializer
        if tensor.name in plan.constants
    }
    for name, array in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        types[name] = helper.make_tensor_type_proto(kind, array.shape)
    source = Source.of(plan.model)
    parts: list[Fragment | tuple[Program, ...] | None] = []
    for step in plan.instructions:
        if isinstance(step, Compute):
            parts.append(fragment(source, step, types, setting.options, setting.providers))
        elif isinstance(step, Communicate):
            types |= communicated(step, types)
            parts.append(None)
        else:
            parts.append(_bodies(step, setting, types, path))
        for name in source.values.keys() & step.outputs:
            types[name] = agreed(types.get(name), source.values[name].type)
    program = Program(plan.without_weights(), parts, constants, setting.groups, path)
    return program, types


def _bodies(
    step: Control, setting: Setting, types: Types, path: tuple[str, ...]
) -> tuple[Program, ...]:
    """Make the bodies of a node ready, and add the types of its outputs to `types`."""
    given = formal(step, types)
    made, ends = list[Program](), list[Ends]()
    for body in step.bodies:
        program = _body(body, given, setting, types, (*path, step.label))
        made.append(program)
        ends.append(program.types)
    types |= controlled(step, ends)
    return tuple(made)


def _body(
    plan: Plan, given: Ends, setting: Setting, types: Types, path: tuple[str, ...]
) -> Program:
    graph = plan.model.graph
    declared = {value.name: value.type for value in (*graph.input, *graph.output)}
    known: Types = {name: types[name] for name in plan.captured if name in types}
    for name, kind in zip(plan.inputs, given, strict=True):
        known[name] = kind or declared[name]
    program, found = _prepared(plan, setting, known, path)
    ends = tuple(_closer(found.get(name), declared.get(name)) for name in plan.outputs)
    groups = dict.fromkeys(setting.groups.group(step) for step in plan.collectives)
    return replace(program, types=ends, meets=tuple(filter(setting.agrees, groups)))


def _closer(found: TypeProto | None, declared: TypeProto | None) -> TypeProto | None:
    """Return the type that says more: the declared one where the other has no shape."""
    if declared is None or declared.WhichOneof("value") is None:
        return found
    return declared if found is None or tensor_type(found)[1] is None else found
