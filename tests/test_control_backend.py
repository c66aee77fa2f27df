"""ONNX's own cases of If, Loop and Scan, with an AllReduce behind each result of their bodies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, TensorProto, helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.nodes import subgraphs
from rankwise.models.plan import communicates

KEEPS = {TensorProto.FLOAT: "max", TensorProto.INT64: "max", TensorProto.BOOL: "lor"}
"""Reductions that change nothing where all ranks have the same."""


def communicating(case: TestCase) -> onnx.ModelProto:
    """Return the model of a case, whose bodies reduce what they make."""
    made = onnx.ModelProto()
    made.CopyFrom(case.model)
    made.opset_import.append(helper.make_opsetid("rankwise", 1))
    made.ir_version = 10
    for node in made.graph.node:
        for body in subgraphs(node):
            reduce_outputs(body)
    return made


def reduce_outputs(body: GraphProto) -> None:
    for node in body.node:
        for inner in subgraphs(node):
            reduce_outputs(inner)
    made = {name for node in body.node for name in node.output}
    for value in body.output:
        kind = value.type.tensor_type.elem_type
        if value.name in made and kind in KEEPS:
            raw = f"{value.name}/raw"
            for node in body.node:
                node.input[:] = [raw if name == value.name else name for name in node.input]
                node.output[:] = [raw if name == value.name else name for name in node.output]
            body.node.append(
                helper.make_node(
                    "AllReduce", [raw], [value.name], domain="rankwise", op=KEEPS[kind]
                )
            )


def cases() -> dict[str, TestCase]:
    """Return the cases whose bodies make tensors; those of Scan from opset 9 on."""
    with warnings.catch_warnings(action="ignore"):  # all are made, Casts that overflow too
        found = [case for case in collect_testcases(None) if case.model is not None]
    return {
        case.name: case
        for case in found
        if {node.op_type for node in case.model.graph.node} & {"If", "Loop", "Scan"}
        and case.model.opset_import[0].version > 8
        and communicates(communicating(case))
    }


@pytest.mark.slow
def test_bodies_give_what_onnx_says() -> None:
    found = cases()
    assert {"test_if", "test_loop11", "test_loop13_seq", "test_scan9_multi_state"} < set(found)
    for case in found.values():
        made = communicating(case)
        ((given, expected),) = case.data_sets
        feeds = dict(zip((value.name for value in made.graph.input), given, strict=True))

        def on_rank(comm: Communicator) -> list[Any]:
            with rankwise.InferenceSession(made.SerializeToString(), comm=comm) as session:  # noqa: B023
                return session.run(None, feeds)  # noqa: B023

        for outputs in local.run(2, on_rank):
            pairs = zip(map(tensors, outputs), map(tensors, expected), strict=True)
            for got, wanted in (pair for both in pairs for pair in zip(*both, strict=True)):
                assert np.shape(got) == np.shape(wanted), case.name
                np.testing.assert_allclose(got, wanted, rtol=1e-6, err_msg=case.name)


def tensors(value: Any) -> list[Any]:
    """Return the tensors of a sequence, or a tensor alone."""
    return value if isinstance(value, list) else [value]
