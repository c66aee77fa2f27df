"""Operators written out as the functions that they are, where their parts shard and they do not.

The smallest and largest of a tensor, as DynamicQuantizeLinear needs them, can be found in parts
and combined; so can the sum of a loss. Which is why such an operator has no rule, but a body: that
of ONNX's own schema, unless one stands here. `analyse` sees the bodies in the place of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx import FunctionProto, NodeProto, ValueInfoProto, defs, helper, inliner, parser

from ..bodies import every
from ..graph import Graph, with_nodes
from ..nodes import copied
from ..shapes import Shapes, infer, symbols

DECOMPOSED = {
    "CausalConvWithState",
    "DynamicQuantizeLinear",
    "LinearAttention",
    "NegativeLogLikelihoodLoss",
    "SoftmaxCrossEntropyLoss",
    "SwiGLU",
}
"""Operators of ai.onnx that are written out."""

BODIES = {
    # ONNX's own divides by zero where all elements are zero; onnxruntime takes a scale of 1 there.
    "DynamicQuantizeLinear": """
      DynamicQuantizeLinear (x) => (y, y_scale, y_zero_point) {
        zero = Constant <value_float: float = 0.0> ()
        one = Constant <value_float: float = 1.0> ()
        largest = Constant <value_float: float = 255.0> ()
        x_min = ReduceMin <keepdims: int = 0> (x)
        x_max = ReduceMax <keepdims: int = 0> (x)
        low = Min (x_min, zero)
        high = Max (x_max, zero)
        range = Sub (high, low)
        is_flat = Equal (range, zero)
        step = Div (range, largest)
        y_scale = Where (is_flat, one, step)
        scaled = Div (low, y_scale)
        start = Sub (zero, scaled)
        clipped = Clip (start, zero, largest)
        rounded = Round (clipped)
        y_zero_point = Cast <to: int = 2> (rounded)
        y = QuantizeLinear (x, y_scale, y_zero_point)
      }""",
}
"""Bodies by operator, where ONNX's own will not do."""

DOMAIN = "rankwise.decomposed"


def decomposed(graph: Graph) -> Graph:
    """Return the graph with bodies in the place of such nodes, and of such nodes in bodies."""
    while any(_has_body(node, graph) for node in every(graph.nodes)):
        shapes = infer(graph, dict.fromkeys(symbols(graph), 7))
        nodes, functions = [copied(node) for node in graph.nodes], list[FunctionProto]()
        for node in every(nodes):
            if _has_body(node, graph):
                body = _body(node, graph, shapes)
                body.name, body.domain = f"{body.name}.{len(functions)}", DOMAIN
                functions.append(body)
                node.op_type, node.domain = body.name, DOMAIN
        graph = with_nodes(graph, _inlined(graph, nodes, functions))
    return graph


def _has_body(node: NodeProto, graph: Graph) -> bool:
    if node.domain or node.op_type not in DECOMPOSED:
        return False
    if not defs.has(node.op_type, graph.opsets[""], node.domain):
        return False
    return node.op_type in BODIES or any(_versions(node, graph))


def _versions(node: NodeProto, graph: Graph) -> Iterator[int]:
    """Yield the opsets that the schema has a body for, as far as the graph's own reaches."""
    schema = _schema(node, graph)
    bodies = (schema.function_opset_versions, schema.context_dependent_function_opset_versions)
    yield from (version for some in bodies for version in some if version <= graph.opsets[""])


def _schema(node: NodeProto, graph: Graph) -> Any:
    """Return the schema, of which onnx's own stub lacks the functions."""
    return defs.get_schema(node.op_type, graph.opsets[""])


def _body(node: NodeProto, graph: Graph, shapes: Shapes) -> FunctionProto:
    version = graph.opsets[""]
    if node.op_type in BODIES:
        head = f'<domain: "{DOMAIN}", opset_import: ["": {version}]>'
        return parser.parse_function(f"{head} {BODIES[node.op_type]}")
    schema = _schema(node, graph)
    latest = max(_versions(node, graph))
    if latest in schema.function_opset_versions:
        data = schema.get_function_with_opset_version(latest)
    else:
        types = [
            helper.make_tensor_type_proto(shapes.types[name], shapes.shapes.get(name))
            for name in node.input
            if name
        ]
        data = schema.get_context_dependent_function_with_opset_version(
            latest, node.SerializeToString(), [kind.SerializeToString() for kind in types]
        )
    return data if isinstance(data, FunctionProto) else FunctionProto.FromString(data)


def _inlined(
    graph: Graph, nodes: list[NodeProto], functions: list[FunctionProto]
) -> list[NodeProto]:
    """Put the functions' nodes in the place of their calls; no name is taken twice."""
    opsets: Mapping[str, int] = graph.opsets | {DOMAIN: 1}
    taken = [*graph.inputs, *(ValueInfoProto(name=name) for name in graph.weights)]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", taken, graph.outputs),
        opset_imports=[helper.make_opsetid(domain, n) for domain, n in opsets.items()],
        ir_version=graph.ir_version,
        functions=functions,
    )
    return list(inliner.inline_local_functions(model, convert_version=True).graph.node)
