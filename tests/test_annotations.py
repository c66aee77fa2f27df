"""Graphs annotated by device configurations give what the plain ones give."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from annotated import MESH, annotate, check, grid, model, split, whole
from case import normal
from onnx import ModelProto
from sessions import run

from rankwise.models.check import Verdict, slim
from rankwise.models.check import check as check_plans
from rankwise.models.dialects.annotations import lower_rank
from rankwise.models.graph import is_fed_whole
from rankwise.models.placing.placement import Cut, Factor, Placement, cut
from rankwise.models.plan import build_plan
from rankwise.runtime.cli import main

MLP = """mlp (float[n, 8] x) => (float[n, 6] y)
<float[8, 12] w1 = {%s}, float[12] b1 = {%s}, float[12, 6] w2 = {%s}> {
  h = MatMul (x, w1)
  a = Add (h, b1)
  r = Relu (a)
  y = MatMul (r, w2)
}"""
X = {"x": normal(5, 8)}


def mlp(devices: int) -> ModelProto:
    return model(MLP % tuple(map(numbers, (96, 12, 72))), devices)


def numbers(count: int) -> str:
    return ", ".join(f"{value:.4f}" for value in normal(count))


def collectives(made: ModelProto, ranks: int, folder: Path) -> list[list[str]]:
    """The communication of each rank, by operator."""
    paths = [lower_rank(made.SerializeToString(), rank, ranks, folder) for rank in range(ranks)]
    return [
        [node.op_type for node in onnx.load(path).graph.node if node.domain == "rankwise"]
        for path in paths
    ]


def test_column_then_row_is_one_allreduce(tmp_path: Path) -> None:
    made = mlp(2)
    annotate(made, "h", {"x": whole(0, 1), "w1": split(1, 0, 1), "h": split(1, 0, 1)})
    annotate(made, "y", {"w2": split(0, 0, 1)})
    check(made, 2, X)
    assert collectives(made, 2, tmp_path) == [["AllReduce"]] * 2
    held = {t.name: list(t.dims) for t in onnx.load(tmp_path / "rank1.onnx").graph.initializer}
    assert held == {"w1/local": [8, 6], "b1/local": [6], "w2/local": [6, 6]}


def test_a_sum_that_is_wanted_in_parts_is_scattered(tmp_path: Path) -> None:
    for ranks, spec in [(2, split(0, 0, 1)), (3, split(1, 2, 0, 1))]:
        made = mlp(ranks)
        annotate(made, "h", {"w1": split(1, *range(ranks))})
        annotate(made, "y", {"w2": split(0, *range(ranks)), "y": spec})
        check(made, ranks, X)
        (ops, *_) = collectives(made, ranks, tmp_path)
        assert ops == ["ReduceScatter", "AllGather"]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("w1", split(1, 0, 1, 2)),
        ("w1", split(0, 0, 1, 2)),
        ("x", split(1, 2, 0, 1)),
        ("x", split(0, 0, 1, 2)),
        ("h", split(0, 0, 1, 2)),
        ("h", split(1, 1, 0, 2)),
        ("h", whole(2)),
        ("h", split(1, 0, (1, 2))),
        ("h", Placement((Cut(1, (Factor(3, 1), Factor(4, 2))),), ((0,), (2,)))),
        ("x", Placement((Cut(1, (Factor(2, 1), Factor(4, 2))),), ((2,), (1,)))),
        ("x", Placement((cut(1, 4),), ((0,), (1,), (0,), (1,)))),
        ("w1", Placement((cut(1, 6),), ((0,), (1,), (2,), (0,), (1,), (2,)))),
    ],
)
def test_a_single_spec_is_enough(name: str, spec: Placement) -> None:
    made = mlp(3)
    annotate(made, "h", {name: spec})
    check(made, 3, X)


def test_a_grid_of_rows_and_columns() -> None:
    made = mlp(4)
    annotate(made, "h", {"x": split(0, (0, 1), (2, 3)), "w1": split(1, (0, 2), (1, 3))})
    blocks = grid([(0, 2), (1, 2)], 0, 1, 2, 3)
    rows = split(0, (0, 2), (1, 3))
    annotate(made, "y", {"r": blocks, "w2": rows, "y": split(1, 3, 1, 0)})
    check(made, 4, X)


@pytest.mark.parametrize(
    ("devices", "stages"), [(2, (0, 0, 1, 1)), (3, (0, 1, 1, 2)), (4, (0, 0, 0, 1))]
)
def test_stages(devices: int, stages: tuple[int, ...], tmp_path: Path) -> None:
    made = mlp(devices)
    for name, stage in zip(("h", "a", "r", "y"), stages, strict=True):
        annotate(made, name, stage=stage)
    check(made, devices, X)
    (sends, *_) = collectives(made, devices, tmp_path)
    assert "Send" in sends


def test_a_stage_that_is_sharded() -> None:
    made = mlp(4)
    annotate(made, "h", {"w1": split(1, 0, 1)}, stage=0)
    annotate(made, "y", {"w2": split(0, 2, 3)}, stage=1)
    check(made, 4, X)


GRAPHS: dict[str, tuple[str, str, dict[str, Placement], dict[str, np.ndarray]]] = {
    "heads": (
        """g (float[2, 5, 12] x) => (float[2, 4, 5, 3] y) <int64[4] s = {0, 0, 4, 3}> {
          r = Reshape (x, s)  y = Transpose <perm = [0, 2, 1, 3]> (r) }""",
        "r", {"x": split(2, 0, 1)}, {"x": normal(2, 5, 12)},
    ),
    "fused": (
        """g (float[2, 4] x) => (float[8] y) <int64[1] s = {-1}> {
          r = Reshape (x, s)  y = Relu (r) }""",
        "r", {"x": split(1, 0, 1)}, {"x": normal(2, 4)},
    ),
    "softmax": (
        """g (float[3, n] x) => (float[3, n] y) { h = Relu (x)  y = Softmax (h) }""",
        "h", {"x": split(1, 0, 1)}, {"x": normal(3, 5)},
    ),
    "rows of softmax": (
        """g (float[n, 4] x) => (float[n, 4] y) { y = Softmax (x) }""",
        "y", {"x": split(0, 0, 1)}, {"x": normal(3, 4)},
    ),
    "mean": (
        """g (float[3, 5] x) => (float[3, 1] y) <int64[1] a = {1}> { y = ReduceMean (x, a) }""",
        "y", {"x": split(1, 0, 1)}, {"x": normal(3, 5)},
    ),
    "max": (
        """g (float[3, 5] x) => (float[5] y) <int64[1] a = {0}> {
          y = ReduceMax <keepdims = 0> (x, a) }""",
        "y", {"x": split(0, 1, 0)}, {"x": normal(3, 5)},
    ),
    "gemm": (
        """g (float[3, 4] x, float[4, 6] w, float[6] b) => (float[3, 6] y) {
          y = Gemm (x, w, b) }""",
        "y", {"x": split(1, 1, 0)}, {"x": normal(3, 4), "w": normal(4, 6), "b": normal(6)},
    ),
    "outer": (
        """g (float[6, 1] x, float[1, 5] w) => (float[6, 5] y) { y = Mul (x, w) }""",
        "y", {"x": split(0, 0, 1)}, {"x": normal(6, 1), "w": normal(1, 5)},
    ),
    "concat": (
        """g (float[4, 3] x, float[4, 5] w) => (float[4, 8] y) {
          h = Relu (x)  y = Concat <axis = 1> (h, w) }""",
        "h", {"x": split(1, 0, 1)}, {"x": normal(4, 3), "w": normal(4, 5)},
    ),
    "slice": (
        """g (float[8, 6] x) => (float[8, 3] y)
        <int64[1] s = {1}, int64[1] e = {4}, int64[1] a = {1}> { y = Slice (x, s, e, a) }""",
        "y", {"x": split(0, 0, 1)}, {"x": normal(8, 6)},
    ),
    "branches": (
        """g (float[4] x, bool c) => (float[4] y) {
          h = Relu (x)
          y = If (c) <then_branch = t () => (float[4] u) { u = Neg (h) },
                      else_branch = e () => (float[4] v) { v = Abs (h) }> }""",
        "h", {"x": split(0, 0, 1)}, {"x": normal(4), "c": np.array(True)},
    ),
    "shape": (
        """g (float[n, 4] x) => (float[n, 4] y) {
          h = Relu (x)  s = Shape (h)  z = ConstantOfShape (s)  y = Add (h, z) }""",
        "h", {"x": split(0, 0, 1)}, {"x": normal(5, 4)},
    ),
    "two outputs": (
        """g (float[6, 4] x) => (float[3, 4] y, float[3, 4] z) {
          h = Relu (x)  y, z = Split <num_outputs = 2> (h) }""",
        "h", {"x": split(1, 1, 0)}, {"x": normal(6, 4)},
    ),
    "conv": (
        """g (float[1, 4, 6, 6] x, float[8, 4, 3, 3] w, float[8] b) => (float[1, 8, 4, 4] y) {
          y = Conv (x, w, b) }""",
        "y", {"w": split(1, 1, 0)},
        {"x": normal(1, 4, 6, 6), "w": normal(8, 4, 3, 3), "b": normal(8)},
    ),
    "gather": (
        """g (int64[5] i, float[7, 3] w) => (float[5, 3] y) { y = Gather (w, i) }""",
        "y", {"w": split(0, 1, 0)}, {"i": np.array([0, 6, 3, 3, 5]), "w": normal(7, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    text, output, specs, feeds = GRAPHS[name]
    made = model(text, 2)
    annotate(made, output, specs)
    check(made, 2, feeds)
    other = model(text, 3)
    swapped = {n: _moved(placement) for n, placement in specs.items()}
    annotate(other, output, swapped)
    check(other, 3, feeds)


def _moved(placement: Placement) -> Placement:
    """The same, on the devices 2 and 1."""
    return Placement(placement.cuts, tuple(tuple(2 - d for d in g) for g in placement.devices))


NONE_LEFT: dict[str, tuple[Placement, Placement]] = {
    "of one device": (whole(0), split(1, 0, 1, 2, 3)),
    "of those that have rows": (split(0, 2, 3), split(1, 0, 1, 2, 3)),
    "of those that have rows, in another order": (split(0, 0, 1), split(1, 3, 2, 1, 0)),
}


@pytest.mark.parametrize("rows", ["n", "5"])
@pytest.mark.parametrize("name", NONE_LEFT)
def test_a_device_that_gets_no_columns_learns_how_many_rows_they_have(
    name: str, rows: str
) -> None:
    before, after = NONE_LEFT[name]
    made = model(f"g (float[{rows}, 3] x) => (float[{rows}, 3] z) {{ y = Relu(x) z = Neg(y) }}", 4)
    annotate(made, "y", {"x": before, "y": after})
    check(made, 4, {"x": normal(5, 3)})


def test_both_branches() -> None:
    text, output, specs, feeds = GRAPHS["branches"]
    for taken in (True, False):
        made = model(text, 2)
        annotate(made, output, specs)
        check(made, 2, {**feeds, "c": np.array(taken)})


def test_one_device_draws_for_all(tmp_path: Path) -> None:
    text = "g (float[6] x) => (float[6] y) { r = Relu (x) d = RandomNormalLike (r) y = Neg (d) }"
    made = model(text, 3)
    annotate(made, "r", {"x": split(0, 0, 1, 2)})
    first, *others = run(3, made, {"x": normal(6)})
    assert all(np.array_equal(first[0], other[0]) for other in others)
    # Within a process onnxruntime draws the same everywhere, so the graphs are looked at too.
    paths = [lower_rank(made.SerializeToString(), rank, 3, tmp_path) for rank in range(3)]
    drawing = [{node.op_type for node in onnx.load(path).graph.node} for path in paths]
    assert ["RandomNormalLike" in ops for ops in drawing] == [True, False, False]


def test_models_given_by_path_read_weights_of_other_files(tmp_path: Path) -> None:
    made = mlp(2)
    annotate(made, "h", {"w1": split(1, 0, 1)})
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="weights", size_threshold=0)
    lowered = [onnx.load(lower_rank(path, rank, 2, tmp_path)) for rank in range(2)]
    assert [t.dims for t in lowered[0].graph.initializer if "w1" in t.name] == [[8, 6]]


def test_as_many_ranks_as_a_configuration_has_devices() -> None:
    made = mlp(2)
    annotate(made, "h", {"w1": split(1, 0, 1)})
    made.configuration.add(name="three", num_devices=3)
    other = made.graph.node[3].device_configurations.add(configuration_id="three")
    other.sharding_spec.add(tensor_name="w2", device=[0, 1, 2]).sharded_dim.add(
        axis=-1
    ).simple_sharding.add(num_shards=3)
    check(made, 2, X)
    check(made, 3, X)
    with pytest.raises(ValueError, match=f"'{MESH}' of 2, 'three' of 3"):
        check(made, 4, X)


def proof(models: list[ModelProto]) -> Verdict:
    """What the check of all ranks' programs says."""
    return check_plans([slim(build_plan(model), None) for model in models], [None] * len(models))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_programs_of_all_ranks_fit(name: str, tmp_path: Path) -> None:
    text, output, specs, _ = GRAPHS[name]
    made = model(text, 3)
    annotate(made, output, {n: _moved(placement) for n, placement in specs.items()})
    paths = [lower_rank(made.SerializeToString(), rank, 3, tmp_path) for rank in range(3)]
    models = [onnx.load(path) for path in paths]
    assert all(map(is_fed_whole, models))
    assert not proof(models).findings


def test_the_verb_check_speaks_of_annotations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = mlp(2)
    annotate(made, "h", {"w1": split(1, 0, 1)})
    onnx.save(made, tmp_path / "good.onnx")
    annotate(made, "y", {"w2": split(1, 0, 2)})
    annotate(made, "a", {"w2": split(1, 0, 1)})
    onnx.save(made, tmp_path / "bad.onnx")
    assert main(["check", str(tmp_path / "good.onnx")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "bad.onnx")]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
