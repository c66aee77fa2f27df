"""Bodies of control flow as models of their own, whose graphs can be planned as any other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from onnx import GraphProto, ModelProto, NodeProto

from ..nodes import references


def body_model(
    outer: ModelProto, body: GraphProto, constants: Mapping[str, NodeProto]
) -> ModelProto:
    """Return a body as a model that holds the initializers and Constants which it captures.

    `constants` are the Constant nodes of `outer` by what they give. External data is referred to,
    not copied; fragments see as constant what was so outside.
    """
    model = ModelProto(ir_version=outer.ir_version)
    model.opset_import.extend(outer.opset_import)
    model.functions.extend(outer.functions)
    model.graph.CopyFrom(body)
    captured = captures(body)
    graph = outer.graph
    model.graph.initializer.extend(t for t in graph.initializer if t.name in captured)
    model.graph.sparse_initializer.extend(
        t for t in graph.sparse_initializer if t.values.name in captured
    )
    absorbed = {k: constants[k] for k in sorted(captured & constants.keys())}
    del model.graph.node[:]
    model.graph.node.extend(chain(absorbed.values(), body.node))
    return model


def captures(body: GraphProto) -> set[str]:
    """Return the names that a body reads and does not make."""
    own = {value.name for value in (*body.input, *body.initializer)}
    own |= {tensor.values.name for tensor in body.sparse_initializer}
    own |= {name for node in body.node for name in node.output}
    read = {name for node in body.node for name in references(node)}
    return (read | {value.name for value in body.output}) - own
