"""Stages of a pipeline: balanced, within memory, and each tensor sent where it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import ranks
from comparison import assert_same
from graphs import CACHED, CASES, build, normal

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import MeshError, NothingToShard
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan
from rankwise.models.sharding.prediction import predict
from rankwise.models.sharding.search import Terms

LAYERS = 12


def decoder(layers: int = LAYERS, width: int = 96, words: int = 500) -> onnx.ModelProto:
    """Return a decoder with caches and tied embeddings, which asks the last cache its length."""
    lines = [
        "(int64[b,s] ids" + "".join(f", float[b,p,{width}] past_{k}" for k in range(layers))
        + f") => (float[b,s,{words}] logits"
        + "".join(f", float[b,t,{width}] present_{k}" for k in range(layers)) + ") {",
        "e = Gather(table, ids)",
        f"length = Shape <start=1, end=2> (past_{layers - 1})",
        "place = Cast <to=1> (length)",
        "turn = Mul(place, speeds)",
        "shift = Sin(turn)",
        "x0 = Add(e, shift)",
    ]  # fmt: skip
    weights: dict[str, Any] = {
        "table": (words, width),
        "speeds": np.linspace(0.1, 2, width, dtype=np.float32),
    }
    for k in range(layers):
        lines += [
            f"n{k} = LayerNormalization <axis=-1> (x{k}, g{k})",
            f"q{k} = MatMul(n{k}, wq{k})",
            f"k{k} = MatMul(n{k}, wk{k})",
            f"present_{k} = Concat <axis=1> (past_{k}, k{k})",
            f"t{k} = Transpose <perm=[0,2,1]> (present_{k})",
            f"s{k} = MatMul(q{k}, t{k})",
            f"p{k} = Softmax(s{k})",
            f"c{k} = MatMul(p{k}, present_{k})",
            f"a{k} = Add(x{k}, c{k})",
            f"u{k} = MatMul(a{k}, up{k})",
            f"r{k} = Relu(u{k})",
            f"d{k} = MatMul(r{k}, down{k})",
            f"x{k + 1} = Add(a{k}, d{k})",
        ]
        weights |= {f"g{k}": np.full(width, 0.3, np.float32), f"wq{k}": (width, width),
                    f"wk{k}": (width, width), f"up{k}": (width, 3 * width),
                    f"down{k}": (3 * width, width)}  # fmt: skip
    lines += ["turned = Transpose <perm=[1,0]> (table)", f"logits = MatMul(x{layers}, turned) }}"]
    return build("\n".join(lines), **weights)


@pytest.mark.parametrize("mesh", ["pp=2", "pp=3", "pp=4", "pp=2,tp=2"])
def test_no_stage_of_a_decoder_takes_much_longer_than_another(mesh: str) -> None:
    sharding = plan(load(decoder()), mesh)
    stages = predict(sharding).stages
    assert max(stages) <= 1.15 * sum(stages) / len(stages)
    starts = [sharding.ends(stage)[0] for stage in range(sharding.mesh.pp)]
    assert len(set(starts)) == sharding.mesh.pp


def held(memory: int | tuple[int, ...] | None, mesh: str = "pp=3") -> list[int]:
    sharding = plan(load(decoder()), mesh, Terms(memory=memory))
    return [part.weight_bytes for part in sharding.heaviest_parts]


def test_limits_of_memory_are_honoured_though_they_make_stages_uneven() -> None:
    free, total = held(None), sum(held(None))
    first = free[0] // 2
    limits = (first, total, free[2])
    uneven = held(limits)
    assert uneven[0] <= first < free[0]
    assert all(got <= limit for got, limit in zip(uneven, limits, strict=True))
    assert max(held(max(free))) <= max(free)


def test_a_mesh_that_cannot_hold_a_model_says_which_can() -> None:
    graph = load(decoder())
    limit = graph.weight_bytes // 4
    message = r"of 2 stages the heaviest holds [\d,]+ at the least; .*; (\S+) would do"
    with pytest.raises(MeshError, match=message) as caught:
        plan(graph, "pp=2", Terms(memory=limit))
    better = str(caught.value).rpartition("; ")[2].removesuffix(" would do")
    assert Mesh.parse(better).size > 2
    assert max(p.weight_bytes for p in plan(graph, better, Terms(memory=limit)).parts) <= limit
    with pytest.raises(MeshError, match="no mesh of up to 64 ranks would do"):
        plan(graph, "dp=2", Terms(memory=10))
    with pytest.raises(MeshError, match="or one for each stage, which are 2, got 3"):
        plan(graph, "pp=2", Terms(memory=(1, 2, 3)))


def test_more_stages_than_nodes_are_refused_with_what_would_do() -> None:
    message = "expected at most 4 stages, got 5: the graph has 4 nodes .*; pp=4 would do"
    with pytest.raises(MeshError, match=message):
        plan(load(CASES["mlp"].model), "pp=5")
    strings = build(
        "(float[b,2] x) => (float[b,2] y) { s = Cast <to=8> (x) \n y = Cast <to=1> (s) }"
    )
    with pytest.raises(MeshError, match="at 1 of them what is alive cannot be sent; leave pp out"):
        plan(load(strings), "pp=2")


def test_axes_of_tp_that_cannot_be_cut_are_refused_in_a_product_too() -> None:
    model = build("(float[b,4] x) => (float[b,4] y) { z = Relu(x) \n y = Neg(z) }")
    with pytest.raises(NothingToShard, match="over tp=2: it has no weights; leave tp out"):
        plan(load(model), "pp=2,tp=2")


SKIPPING = """(float[b,20] x) => (float[b,20] y, float[b,20] early) {
  early = MatMul(x, w0)
  h1 = MatMul(early, w1)
  h2 = MatMul(h1, w2)
  h3 = MatMul(h2, w1)
  n = Shape(early)
  e = Expand(bias, n)
  a = Add(h3, e)
  y = Add(a, early)
}"""


def test_a_tensor_goes_straight_to_every_stage_that_reads_it(tmp_path: Path) -> None:
    model = build(SKIPPING, w0=(20, 20), w1=(20, 20), w2=(20, 20), bias=(20,))
    sharding = plan(load(model), "pp=4")
    sources = {
        part.rank: part.constants[node.input[0]].read().item()
        for part in sharding.parts
        for node in part.nodes
        if node.op_type == "Recv" and node.output[0] == "early/made"
    }
    assert len(sources) >= 2
    assert set(sources.values()) == {0}
    assert len([part.rank for part in sharding.parts if "w1" in part.held]) == 2
    for got in ranks.run(sharding, {"x": normal(3, 20)}, tmp_path):
        assert_same(got, ranks.whole(model, {"x": normal(3, 20)}))


def test_sizes_of_inputs_and_folded_weights_are_not_sent() -> None:
    model = build(
        """(float[b,8] x) => (float[b,1,8] y) {
          s = Shape(x)
          t = Transpose(w)
          h = MatMul(x, t)
          r = Relu(h)
          g = MatMul(r, t)
          k = Reshape(g, s)
          y = Unsqueeze(k, one)
        }""",
        w=(8, 8),
        one=np.array([1]),
    )
    sharding = plan(load(model), "pp=2")
    assert sharding.collectives == {"Send": 1, "Broadcast": 1}
    assert ["w" in part.held for part in sharding.parts] == [True, True]


def greedy(run: Any, steps: int) -> list[int]:
    """Decode from a prompt of four tokens: each time the likeliest."""
    fed: dict[str, Any] = {"ids": np.array([[3, 1, 4, 1], [5, 9, 2, 6]])}
    fed |= {f"past_{k}": np.zeros((2, 0, 24), np.float32) for k in range(4)}
    tokens = list[int]()
    while len(tokens) < 2 * steps:
        logits, *states = run(None, fed)
        likeliest = logits[:, -1].argmax(axis=-1)
        tokens += likeliest.tolist()
        fed = {"ids": likeliest[:, None]} | {f"past_{k}": x for k, x in enumerate(states)}
    return tokens


@pytest.mark.parametrize("mesh", ["pp=2", "dp=2", "pp=3"])
def test_tokens_are_those_of_one_process_where_caches_stay(mesh: str, tmp_path: Path) -> None:
    model = decoder(layers=4, width=24, words=70)
    onnx.save(model, tmp_path / "model.onnx")
    with local_session(tmp_path) as whole:
        expected = greedy(whole.run, 32)
    assert len(set(expected)) > 3

    def work(comm: Communicator) -> tuple[list[int], set[str]]:
        with InferenceSession(tmp_path / "model.onnx", comm=comm, mesh=mesh) as session:
            return greedy(session.run_local, 32), set(session.trace.operators)

    for tokens, used in local.run(Mesh.parse(mesh).size, work):
        assert tokens == expected
        assert used <= {"Send", "Recv", "Broadcast", "AllGather"}


def local_session(folder: Path) -> InferenceSession:
    return local.run(1, lambda comm: InferenceSession(folder / "model.onnx", comm=comm))[0]


def test_a_length_is_asked_of_a_cache_that_is_on_the_same_stage() -> None:
    sharding = plan(load(decoder(layers=4)), "pp=2")
    for part in sharding.parts:
        assert len(part.states) == 4
        assert {state.local_output != "" for state in part.states} == {True, False}
    asked = [node.input[0] for p in sharding.parts for node in p.nodes if node.op_type == "Shape"]
    assert asked == ["past_0"]


def test_a_cache_is_on_one_stage_and_an_empty_array_stands_for_it_elsewhere() -> None:
    sharding = plan(load(CACHED.model), "pp=2")
    names = [(part.states[0].local_output, part.states[0].local_input) for part in sharding.parts]
    assert sorted(names) == [("", ""), ("present_kv/made", "past_kv")]
