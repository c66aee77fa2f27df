"""Bodies of control flow as models of their own, whose graphs can be planned as any other."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto

from ..nodes import captures


class Surroundings:
    """A model around bodies, and what in it is constant, by name."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = {n.output[0]: n for n in graph.node if is_constant(n)}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}

    def body(self, body: GraphProto) -> ModelProto:
        """Return a body as a model that holds the initializers and Constants which it captures.

        External data is referred to, not copied; fragments see as constant what was so outside.
        """
        model = ModelProto(ir_version=self.model.ir_version)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        graph, captured = model.graph, sorted(captures(body))
        graph.CopyFrom(body)
        graph.initializer.extend(self.tensors[k] for k in captured if k in self.tensors)
        graph.sparse_initializer.extend(self.sparse[k] for k in captured if k in self.sparse)
        graph.node.extend(self.nodes[k] for k in captured if k in self.nodes)
        return model


def is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")
