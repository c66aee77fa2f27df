"""Multiply-adds, elements and bytes of a node, against counts by hand."""

from __future__ import annotations

import math
from typing import Any

import graphs
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse, usual_bytes
from rankwise.models.sharding.axes import find
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.layout import Layout, is_opaque
from rankwise.models.sharding.machine import HERE, Transfer
from rankwise.models.sharding.rules import find_rule
from rankwise.models.sharding.workload import COUNTS, Work, local_work, work

U8 = np.zeros((), np.uint8)


def one_node(
    op_type: str,
    inputs: dict[str, tuple[int, ...] | np.ndarray[Any, Any]],
    outputs: dict[str, tuple[int, ...]],
    domain: str = "",
    **attributes: Any,
) -> ModelProto:
    """Return a model of a node: shapes are inputs of float32, arrays are weights."""
    node = helper.make_node(
        op_type, [n.rstrip("_") for n in inputs], list(outputs), domain=domain, **attributes
    )
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
        if isinstance(shape, tuple) and name.rstrip("_")
    ]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    weights = [
        numpy_helper.from_array(array, name)
        for name, array in inputs.items()
        if isinstance(array, np.ndarray)
    ]
    return helper.make_model(
        helper.make_graph([node], "g", given, made, weights),
        opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )


MS = "com.microsoft"
BY_HAND = {
    "product": (one_node("MatMul", {"a": (2, 5, 7), "b": (2, 7, 3)}, {"y": (2, 5, 3)}), 210),
    "Gemm of a transposed": (
        one_node("Gemm", {"a": (7, 5), "b": (7, 3)}, {"y": (5, 3)}, transA=1),
        105,
    ),
    "Einsum": (
        one_node(
            "Einsum",
            {"a": (2, 5, 7), "b": (2, 3, 7)},
            {"y": (2, 5, 3)},
            equation="bik, bjk -> bij",
        ),
        210,
    ),
    "int4": (
        one_node(
            "MatMulNBits",
            {
                "a": (5, 64),
                "b": np.zeros((3, 2, 16), np.uint8),
                "s": np.ones((3, 2), np.float32),
            },
            {"y": (5, 3)},
            MS,
            K=64,
            N=3,
            bits=4,
            block_size=32,
        ),
        5 * 3 * 64,
    ),
    "convolution by group": (
        one_node("Conv", {"x": (1, 4, 9, 9), "w": (6, 2, 3, 3)}, {"y": (1, 6, 7, 7)}, group=2),
        6 * 49 * 2 * 9,
    ),
    "convolution, transposed": (
        one_node("ConvTranspose", {"x": (1, 4, 7, 7), "w": (4, 6, 3, 3)}, {"y": (1, 6, 9, 9)}),
        4 * 49 * 6 * 9,
    ),
    "attention": (
        one_node(
            "Attention",
            {"q": (1, 4, 5, 8), "k": (1, 2, 6, 8), "v": (1, 2, 6, 3)},
            {"y": (1, 4, 5, 3)},
        ),
        4 * 5 * 6 * (8 + 3),
    ),
    "attention of packed rows": (
        one_node(
            "MultiHeadAttention",
            {"q": (1, 5, 32), "k": (1, 6, 32), "v": (1, 6, 32)},
            {"y": (1, 5, 32)},
            MS,
            num_heads=4,
        ),
        2 * 5 * 6 * 32,
    ),
    "attention of keys beside their values": (
        one_node(
            "MultiHeadAttention",
            {"q": (1, 5, 32), "kv": (1, 6, 4, 2, 8)},
            {"y": (1, 5, 32)},
            MS,
            num_heads=4,
        ),
        2 * 5 * 6 * 32,
    ),
    "attention to a cache": (
        one_node(
            "GroupQueryAttention",
            {
                "q": (1, 5, 32),
                "k": (1, 5, 16),
                "v": (1, 5, 16),
                "pk": (1, 2, 7, 8),
                "pv": (1, 2, 7, 8),
                "n": np.array([11], np.int32),
                "t": np.array(12, np.int32),
            },
            {"y": (1, 5, 32), "ck": (1, 2, 12, 8), "cv": (1, 2, 12, 8)},
            MS,
            num_heads=4,
            kv_num_heads=2,
        ),
        2 * 5 * 12 * 32,
    ),
    "attention with its weight": (
        one_node(
            "Attention",
            {"x": (1, 5, 16), "w": (16, 96), "b": (96,)},
            {"y": (1, 5, 32)},
            MS,
            num_heads=4,
        ),
        5 * 16 * 96 + 2 * 5 * 5 * 32,
    ),
    "recurrence": (
        one_node(
            "LSTM",
            {"x": (5, 2, 3), "w": (1, 16, 3), "r": (1, 16, 4)},
            {"y": (5, 1, 2, 4)},
            hidden_size=4,
        ),
        5 * 2 * (16 * 3 + 16 * 4),
    ),
    "experts": (
        one_node(
            "MoE",
            {"x": (5, 8), "p": (5, 6), "fc1": (6, 12, 8), "_": (), "fc2": (6, 8, 12)},
            {"y": (5, 8)},
            MS,
            k=2,
        ),
        5 * 2 * (12 * 8 + 8 * 12),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_multiply_adds_are_those_counted_by_hand(name: str) -> None:
    model, expected = BY_HAND[name]
    analysis = analyse(load(model))
    assert work(analysis, analysis.sites[0]).multiply_adds == expected


def test_quantised_products_count_like_others() -> None:
    text = (
        "(uint8[5,7] x) => (uint8[5,3] y) { y = QLinearMatMul(x, s, z, w, s, z, s, z) }",
        {"w": np.zeros((7, 3), np.uint8), "s": np.float32(1), "z": U8},
    )
    analysis = analyse(load(graphs.build(text[0], **text[1])))
    assert work(analysis, analysis.sites[0]) == Work(105, 15, 21 + 3 * 4 + 3 * 1)


def test_a_table_is_read_as_far_as_it_is_looked_up() -> None:
    model = graphs.build("(int64[b,s] x) => (float[b,s,4] y) { y = Gather(t, x) }", t=(5000, 4))
    analysis = analyse(load(model))
    assert work(analysis, analysis.sites[0]) == Work(0, 256 * 4, 256 * 4 * 4)


def test_what_is_counted_has_a_rule() -> None:
    assert [key for key in COUNTS if find_rule(*key) is None] == []


@pytest.mark.parametrize("name", graphs.CASES)
def test_the_ranks_do_the_work_of_one_between_them(name: str) -> None:
    """Nothing is lost; what no rank leaves to others is done by all."""
    analysis = analyse(load(graphs.CASES[name].model))
    for atom, _, sites in shardable(analysis, 3):
        layout = Layout(frozenset([atom]), 3)
        for site in sites:
            whole = work(analysis, site)
            parts = [local_work(analysis, site, whole, layout, rank) for rank in range(3)]
            total = sum(part.multiply_adds for part in parts)
            axes = [axis for out in site.outputs if out for axis in out.axes]
            if "Conv" not in site.node.op_type:  # which take channels by the vector
                axes += [entry.axis for entry in site.contracted]
            if is_opaque(site, layout):
                assert parts == [whole] * 3
            elif any(axis is not None and layout.covers(axis) for axis in axes):
                assert total == pytest.approx(whole.multiply_adds)
            else:
                assert whole.multiply_adds <= total <= 3 * whole.multiply_adds


def test_three_channels_on_two_ranks_are_as_much_work_as_on_one() -> None:
    model = graphs.build(
        "(float[b,3,64,64] x) => (float[b,32,62,62] y) { y = Conv(x, w) }", w=(32, 3, 3, 3)
    )
    analysis = analyse(load(model))
    site = analysis.sites[0]
    whole = work(analysis, site)
    cut = {
        atom.size.first: local_work(
            analysis, site, whole, Layout(frozenset([find(atom)]), 2), 0
        ).multiply_adds
        for atom in (analysis.tensors["w"].axes[0], analysis.tensors["w"].axes[1])
        if atom is not None
    }
    assert cut == {32: whole.multiply_adds / 2, 3: whole.multiply_adds}


def test_a_collective_takes_its_messages_and_its_bytes() -> None:
    cluster = HERE.cluster
    moved = Transfer("AllReduce", 1 << 20, 4)
    assert moved.sent == 2 * 3 / 4 * (1 << 20)
    expected = cluster.overhead + 2 * cluster.alpha + moved.sent * cluster.beta
    expected += 3 / 4 * (1 << 20) * cluster.gamma
    assert math.isclose(HERE.moving([moved]), expected)


def test_a_step_reads_weights_and_states_again_and_waits_for_collectives() -> None:
    analysis = analyse(load(graphs.CACHED.model))
    assert analysis.steps == 256
    read = sum(work(analysis, site).read for site in analysis.sites)
    states = sum(usual_bytes(analysis, analysis.tensors[n]) for n in analysis.states.values())
    assert read == pytest.approx(analysis.graph.weight_bytes + states, rel=0.01)
    assert HERE.computing(Work(5, 7, 11), 3) == HERE.computing(Work(5, 7, 44))
    moved = [Transfer("AllReduce", 256 * 100, 2), Transfer("AllGather", 999, 2, is_state=True)]
    step = HERE.moving([Transfer("AllReduce", 100, 2)])
    assert HERE.moving(moved, 3) == pytest.approx(HERE.moving(moved) + 3 * step)


def test_a_model_without_states_has_no_steps() -> None:
    assert analyse(load(graphs.MLP.model)).steps == 0
