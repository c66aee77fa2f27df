"""What inspect and --dry-run say, as values and as text."""

from __future__ import annotations

import json
from dataclasses import asdict

import graphs
import onnx
import pytest
from onnx import helper

from rankwise.models.errors import MeshError
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import describe, plan, preview
from rankwise.models.sharding.hints import to_hints
from rankwise.models.sharding.machine import HERE
from rankwise.models.sharding.search import Terms
from rankwise.models.sharding.workload import Work

LAYERS = 3


def tower(layers: int) -> onnx.ModelProto:
    """Return a tower of MLPs with norms, whose weights are named by layer."""
    lines, weights = ["(float[b,s,64] x0) => (float[b,s,64] y) {"], {}
    for k in range(layers):
        lines += [
            f"n{k} = LayerNormalization <axis = -1> (x{k}, scale{k})",
            f"u{k} = MatMul(n{k}, up{k})",
            f"r{k} = Relu(u{k})",
            f"d{k} = MatMul(r{k}, down{k})",
            f"x{k + 1} = Add(x{k}, d{k})",
        ]
        weights |= {f"scale{k}": (64,), f"up{k}": (64, 256), f"down{k}": (256, 64)}
    return graphs.build("\n".join([*lines, f"y = Identity(x{layers}) }}"]), **weights)


def test_every_operator_is_named_and_why_it_is_whole() -> None:
    found = describe(tower(LAYERS).SerializeToString())
    rows = {row.name: row for row in found.operators}
    assert (rows["MatMul"].nodes, rows["MatMul"].cut) == (2 * LAYERS, 2 * LAYERS)
    assert rows["MatMul"].multiply_adds == found.multiply_adds == LAYERS * 2 * 256 * 64 * 256
    assert rows["LayerNormalization"].whole == {"nothing in it is cut": LAYERS}
    assert all(row.cut + sum(row.whole.values()) == row.nodes for row in found.operators)


def test_an_operator_that_nobody_knows_is_named() -> None:
    model = tower(1)
    model.graph.node[2].op_type, model.graph.node[2].domain = "Shine", "lamps"
    model.opset_import.append(helper.make_opsetid("lamps", 1))
    rows = {row.name: row for row in describe(model.SerializeToString()).operators}
    assert rows["Shine"].whole == {"no rule for this operator": 1}


def test_layers_that_are_alike_are_one_price_with_its_outcome() -> None:
    found = describe(tower(LAYERS).SerializeToString())
    inner, residual = (
        next(price for price in found.prices if price.axis == axis) for axis in ("256", "64")
    )
    assert (inner.times, inner.weights, inner.outcome) == (LAYERS, ("up*", "down*"), "taken")
    assert inner.bytes_saved == 2 * 64 * 256 * 4 // 2
    assert (inner.calls, inner.bytes_sent) == (1, 256 * 64 * 4)
    work = Work(2 * 256 * 64 * 256 / 2, 2 * 256 * 256 / 2, inner.bytes_saved)
    assert inner.seconds_saved == pytest.approx(HERE.computing(work))
    assert residual.outcome == "excluded by 256 of up*"


def test_what_hints_and_memory_bring_about_is_told() -> None:
    terms = Terms(memory=10**9, hints=to_hints({"up0": "whole", "up1": {"dim": 1}}))
    found = describe(tower(LAYERS).SerializeToString(), terms=terms)
    outcomes = {price.outcome: price.times for price in found.prices if price.axis == "256"}
    assert outcomes == {"taken": 1, "taken, as a hint asks": 1, "a hint keeps it whole": 1}


def test_a_description_shows_every_mesh_and_its_own_first() -> None:
    found = describe(tower(LAYERS).SerializeToString(), Mesh(tp=6))
    assert found.mesh == "tp=6"
    assert [row.mesh for row in found.meshes] == [
        "one rank",
        *(f"tp={n}" for n in (2, 3, 4, 6, 8)),
    ]
    assert found.meshes[0].weight_bytes == found.weight_bytes
    for row, size in zip(found.meshes[1:], (2, 3, 4, 6, 8), strict=True):
        part = plan(load(tower(LAYERS)), Mesh(tp=size)).parts[0]
        assert (row.weight_bytes, row.bytes_sent) == (part.weight_bytes, round(part.sent))


def test_a_mesh_that_cannot_be_is_left_out() -> None:
    half = describe(tower(LAYERS).SerializeToString()).weight_bytes // 2
    found = describe(tower(LAYERS).SerializeToString(), Mesh(tp=4), Terms(memory=half))
    assert [row.mesh for row in found.meshes] == ["one rank", "tp=3", "tp=4", "tp=8"]
    with pytest.raises(MeshError, match="give it more memory or more ranks"):
        describe(tower(LAYERS).SerializeToString(), Mesh(tp=2), Terms(memory=half))


def test_a_preview_tells_bytes_work_and_communication_of_each_rank() -> None:
    sharding = plan(load(tower(LAYERS)), Mesh(tp=3))
    found = preview(sharding)
    for row, part in zip(found.ranks, sharding.parts, strict=True):
        assert row.weight_bytes == part.weight_bytes
        assert row.collectives == {"AllReduce": LAYERS}
        assert row.bytes_sent == round(LAYERS * 2 * 256 * 64 * 4 * 2 / 3)
    whole = LAYERS * 2 * 256 * 64 * 256
    assert sum(row.multiply_adds for row in found.ranks) == pytest.approx(whole)
    assert found.ranks[0].multiply_adds == pytest.approx(whole * 86 / 256)
    communicating = HERE.moving(sharding.parts[0].moved)
    alone = found.ranks[0].seconds - communicating
    assert found.seconds_alone / 3 < alone < found.seconds_alone


@pytest.mark.parametrize("layers", [1, 30])
def test_texts_are_short_and_hold_what_counts(layers: int) -> None:
    sharding = plan(load(tower(layers)), Mesh(tp=4))
    text = str(preview(sharding))
    for part in sharding.parts:
        assert str(part.weight_bytes) in text.replace(",", "")
    assert f"{layers} AllReduce" in text
    assert "times as fast" in text
    shown = str(describe(tower(layers).SerializeToString()))
    for word in ("LayerNormalization", "excluded by", "up*, down*", "tp=8"):
        assert word in shown
    assert max(len(text.splitlines()), len(shown.splitlines())) <= 60
    assert max(map(len, f"{text}\n{shown}".splitlines())) <= 160


def test_values_are_json() -> None:
    found = describe(graphs.STRUCTURE.model.SerializeToString())
    assert json.loads(json.dumps(asdict(found)))["operators"][0]["name"]
    sharding = plan(load(graphs.MLP.model), Mesh(tp=2))
    assert json.loads(json.dumps(asdict(preview(sharding))))["ranks"][1]["rank"] == 1
