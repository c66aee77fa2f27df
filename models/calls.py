"""Calls of a model's own functions: which call which, and how they are written in place.

A function that calls itself has no end, and onnx would not find one. An attribute that a call
leaves out has the default of the function; onnx's inliner leaves it out.
"""

from __future__ import annotations

from onnx import FunctionProto, ModelProto, NodeProto, inliner

from .errors import ModelError
from .nodes import every_node, with_inner

Key = tuple[str, str, str]
"""domain, name and overload of a function"""


def inlined(model: ModelProto) -> ModelProto:
    """Return a model without functions of its own. Raises ModelError for one that calls itself."""
    if not model.functions:
        return model
    check_recursion(model)
    filled = ModelProto()
    filled.CopyFrom(model)
    functions = {key_of(function): function for function in filled.functions}
    for node in every_node(filled):
        if (function := functions.get(called(node))) is not None:
            given = {entry.name for entry in node.attribute}
            node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
    return inliner.inline_local_functions(filled)


def check_recursion(model: ModelProto) -> None:
    """Raise ModelError for a function that calls itself, or that others lead back to."""
    functions = {key_of(function): function for function in model.functions}
    ended = set[Key]()

    def follow(key: Key, path: tuple[Key, ...]) -> None:
        if key in path:
            names = [name for _, name, _ in (*path[path.index(key) :], key)]
            raise ModelError(
                f"expected functions that end, but {names[0]!r} calls itself: {' > '.join(names)}"
            )
        if key not in ended and key in functions:
            for node in with_inner(functions[key].node):
                follow(called(node), (*path, key))
            ended.add(key)

    for key in functions:
        follow(key, ())


def key_of(function: FunctionProto) -> Key:
    return function.domain, function.name, function.overload


def called(node: NodeProto) -> Key:
    """Return the key of the function that a node calls, if there is one."""
    return node.domain, node.op_type, node.overload
