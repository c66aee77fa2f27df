"""Nodes of other dialects with inputs and attributes at random: read, or refused in one line."""

from __future__ import annotations

import random
from typing import Any

import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto, helper

from rankwise.models.check import check
from rankwise.models.dialects import DIALECTS
from rankwise.models.dialects.dialect import Dialect, Form
from rankwise.models.dialects.translation import translated
from rankwise.models.errors import MeshError, ModelError
from rankwise.models.opset import is_ours
from rankwise.models.plan import build_plan

VALUES: tuple[Any, ...] = (0, 1, -1, 3, 2**40, "sum", "x", 1.5, [0, 1], [0], [], ["a"], [1.5])


def attribute(name: str, value: Any) -> AttributeProto:
    kind = AttributeProto.INTS if value == [] else None
    return helper.make_attribute(name, value, attr_type=kind)


def attributes(form: Form, rng: random.Random) -> list[AttributeProto]:
    """What tells the form from others, mostly as it should be, and some of all else."""
    drawn: dict[str, Any] = {}
    for name, value in form.when.items():
        is_right = isinstance(value, str) and rng.random() < 0.9
        drawn[name] = value if is_right else rng.choice(VALUES)
    known = (*form.attributes, *form.ignored, *form.counts, form.members, form.kinds)
    for name in (*filter(None, known), *(["unknown"] if rng.random() < 0.02 else [])):
        if rng.random() < 0.5:
            drawn[name] = rng.choice(VALUES)
    return [attribute(name, value) for name, value in drawn.items()]


def node(dialect: Dialect, rng: random.Random) -> NodeProto:
    op_type = rng.choice(list(dialect.forms))
    inputs = [rng.choice(["x", "token", "rank", "", "missing"]) for _ in range(rng.randrange(4))]
    outputs = [f"y{k}" for k in range(rng.randrange(1, 3))]
    made = helper.make_node(op_type, inputs, outputs, domain=rng.choice(dialect.domains))
    made.attribute.extend(attributes(rng.choice(dialect.forms[op_type]), rng))
    return made


def model(made: NodeProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [made],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("token", TensorProto.BOOL, []),
            helper.make_tensor_value_info("rank", TensorProto.INT64, []),
        ],
        [ValueInfoProto(name=name) for name in made.output],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_node_at_random_is_read_or_refused_in_one_line(name: str) -> None:
    rng, read = random.Random(name), 0
    for _ in range(500):
        drawn = node(DIALECTS[name], rng)
        size = rng.choice([1, 2, 3])
        try:
            plan = build_plan(translated(model(drawn), size))
            check([plan] * size)
        except (ModelError, MeshError) as error:
            assert "\n" not in str(error)
            continue
        read += any(map(is_ours, plan.model.graph.node))
    assert read >= 5
