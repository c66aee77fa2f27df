"""The working group's example in every form that a program for several ranks can have.

A 2x2 tensor is scattered along dim 0, something is added to each part, and the parts are gathered.
What is added is a weight of which each rank takes its rows, so that a rank has to know who it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from sessions import Array, operand, run

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.dialects.conversion import converted
from rankwise.models.errors import MeshError, ModelError
from rankwise.models.representations import explicit, per_rank, spmd
from rankwise.runtime.cli import main

ENDS = "(float[2,2] x) => (float[a,b] y)"

SPMD = """
    rank = rankwise.Rank() size = rankwise.Size()
    part = rankwise.Scatter(x)
    many = Div(two, size) from = Mul(rank, many) to = Add(from, many)
    first = Reshape(from, one) last = Reshape(to, one) mine = Slice(w, first, last)
    sum = Add(part, mine)
    y = rankwise.AllGather(sum)
"""

EXPLICIT = SPMD.replace("rank = rankwise.Rank() size = rankwise.Size()", "")
EXPLICIT_ENDS = "(float[2,2] x, int64 rank, int64 size) => (float[a,b] y)"

PARALLEL_FOR = """
    y = rankwise.ParallelFor<returns="concat", dim=0, body = b (int64 id, float[2,2] whole) =>
        (float[1,2] made) {
            first = Reshape(id, one) last = Add(first, one)
            part = Slice(whole, first, last) mine = Slice(w, first, last)
            made = Add(part, mine)
        }>(two, x)
"""

ROOT = "part = rankwise.Scatter(x) sum = Add(part, w) y = rankwise.AllGather(sum)"
OTHER = ROOT.replace("Scatter(x)", 'Scatter<dtype=1>("")')

WEIGHT = operand(9, 2, 2)


def model(body: str, ends: str = ENDS, weight: Array = WEIGHT) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    made = parser.parse_model(f"{header} g {ends} {{ {body} }}")
    for name, value in (("w", weight), ("one", np.array([1])), ("two", np.array(2))):
        made.graph.initializer.append(numpy_helper.from_array(value, name))
    return made


def each(size: int, made: Any, feeds: Any = None) -> list[Array]:
    """The result of every rank; only rank 0 has the true operand."""

    def feed(rank: int) -> dict[str, Array]:
        x = operand(0, 2, 2) if rank == 0 else np.full((2, 2), np.nan, np.float32)
        return {"x": x} | (feeds(rank) if feeds else {})

    return [y for (y,) in run(size, made, feed)]


def assert_right(results: list[Array]) -> None:
    for y in results:
        np.testing.assert_array_equal(y, operand(0, 2, 2) + WEIGHT)


def numbers(size: int) -> Any:
    return lambda rank: {"rank": np.array(rank), "size": np.array(size)}


@pytest.mark.parametrize("size", [1, 2])
def test_spmd(size: int) -> None:
    assert_right(each(size, model(SPMD)))


@pytest.mark.parametrize("size", [1, 2])
def test_explicit(size: int) -> None:
    assert_right(each(size, model(EXPLICIT, EXPLICIT_ENDS), numbers(size)))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_parallel_for(size: int) -> None:
    whole = {"x": operand(0, 2, 2)}
    assert_right([y for (y,) in run(size, model(PARALLEL_FOR), lambda rank: whole)])


def test_per_rank_with_different_graphs() -> None:
    graphs = [model(body, weight=WEIGHT[k : k + 1]) for k, body in enumerate((ROOT, OTHER))]
    assert_right(each(2, lambda rank: graphs[rank]))


def test_per_rank_with_the_same_graph() -> None:
    graphs = [model(ROOT, weight=WEIGHT[k : k + 1]) for k in range(2)]
    assert_right(each(2, lambda rank: graphs[rank]))


@pytest.mark.parametrize("size", [2])
def test_in_the_names_that_the_working_group_gave(size: int) -> None:
    graphs = [model(ROOT, weight=WEIGHT[k : k + 1]) for k in range(size)]
    theirs = [converted(graph, "working-group") for graph in graphs]
    assert [node.op_type for node in theirs[0].graph.node] == [
        "TensorScatter", "Add", "TensorAllGather",
    ]  # fmt: skip
    assert_right(each(size, lambda rank: theirs[rank]))


def operators(made: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in made.graph.node if node.domain == "rankwise"}


def test_from_parallel_for_to_spmd() -> None:
    made = spmd(model(PARALLEL_FOR))
    assert operators(made) == {"Rank", "AllGather"}
    whole = {"x": operand(0, 2, 2)}
    assert_right([y for (y,) in run(2, made, lambda rank: whole)])
    with pytest.raises(ModelError, match=r"rank 2 is in none of the groups \[0, 1\]"):
        run(3, made, lambda rank: whole)


def test_from_spmd_to_explicit_and_back() -> None:
    made = explicit(model(SPMD))
    assert [value.name for value in made.graph.input] == ["x", "rank", "size"]
    assert operators(made) == {"Scatter", "AllGather"}
    assert_right(each(2, made, numbers(2)))
    back = spmd(made)
    assert operators(back) == {"Rank", "Size", "Scatter", "AllGather"}
    assert_right(each(2, back))


@pytest.mark.parametrize("source", ["spmd", "explicit", "parallel-for"])
def test_to_per_rank(source: str) -> None:
    made = {
        "spmd": model(SPMD),
        "explicit": model(EXPLICIT, EXPLICIT_ENDS),
        "parallel-for": model(PARALLEL_FOR),
    }[source]
    graphs = per_rank(made, 2)
    assert not operators(graphs[1]) & {"Rank", "Size", "ParallelFor"}
    if source == "parallel-for":
        whole = {"x": operand(0, 2, 2)}
        assert_right([y for (y,) in run(2, lambda rank: graphs[rank], lambda rank: whole)])
        return
    (scatter,) = (node for node in graphs[1].graph.node if node.op_type == "Scatter")
    assert list(scatter.input) == [""]
    assert_right(each(2, lambda rank: graphs[rank]))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("returns", "expected"), [("first", 1), ("concat", None)])
def test_a_body_that_communicates_is_unrolled(
    size: int, returns: str, expected: int | None
) -> None:
    made = model(
        f"""
        size = rankwise.Size()
        y = rankwise.ParallelFor<returns="{returns}", body = b (int64 id) => (float[n,2] made) {{
            part = Mul(x, half) all = rankwise.AllReduce(part)
            real = Cast<to=1>(id) made = Add(all, real)
        }}>(size) half = Cast<to=1>(two)
        """
    )
    x = operand(0, 2, 2)
    total = [2 * size * x + k for k in range(size)]
    wanted = total[0] if returns == "first" else np.concatenate(total)
    for one in (made, spmd(made), spmd(made, size)):
        for (y,) in run(size, one, lambda rank: {"x": x}):
            np.testing.assert_array_equal(y, wanted)
    graphs = per_rank(made, size)
    for (y,) in run(size, lambda rank: graphs[rank], lambda rank: {"x": x}):
        np.testing.assert_array_equal(y, wanted)


def test_values_of_a_body_keep_apart_from_those_around_it() -> None:
    body = """
        h = Neg(x) p = Neg(h)
        c = rankwise.ParallelFor<returns="concat", body = b (int64 id, float[2,2] a) =>
            (float[2,2] r) { g = Relu(a) r = Add(g, p) }>(two, x)
        d = rankwise.ParallelFor<returns="concat", body = b (int64 id) => (float[2,2] r) {
            g = Cast<to=9>(id)
            r = If (g) <then_branch = t () => (float[2,2] u) { u = Neg(h) },
                        else_branch = e () => (float[2,2] v) { v = Identity(h) }>
        }>(two)
        y = Add(c, d)
    """
    made = model(body)
    x = operand(0, 2, 2)
    expected = np.concatenate([np.maximum(x, 0), np.maximum(x, 0) + 2 * x])
    for one in (made, spmd(made, 2)):
        for (y,) in run(2, one, lambda rank: {"x": x}):
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("change", "body", "error", "message"),
    [
        (spmd, PARALLEL_FOR.replace("(two, x)", "(count, x)"), ModelError, "count of unknown"),
        (lambda m: spmd(m, 3), PARALLEL_FOR, ModelError, "of which there are 3, got a count of 2"),
        (per_rank, SPMD, ModelError, "expected --ranks with the number of ranks"),
        (explicit, "rank = Neg(x) y = rankwise.AllReduce(rank)", ModelError, "value named 'rank'"),
        (
            explicit, "r = rankwise.Rank<groups=[0, 1]>() y = Add(r, r)", ModelError,
            "Rank 'r' is within a group",
        ),
    ],
)  # fmt: skip
def test_what_has_no_such_form_is_one_line(
    change: Any, body: str, error: type[Exception], message: str
) -> None:
    made = model(body, "(float[2,2] x, int64 count) => (y)")
    with pytest.raises(error, match=message):
        change(made)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, explicit_path, parts = (tmp_path / n for n in ("spmd.onnx", "explicit.onnx", "parts"))
    onnx.save(model(SPMD), source)
    assert main(["convert", str(source), "-o", str(explicit_path), "--to", "explicit"]) == 0
    convert = ["convert", str(explicit_path), "-o", str(parts), "--to", "per-rank"]
    assert main(convert) == 2
    assert "expected --ranks" in capsys.readouterr().err
    assert main([*convert, "--ranks", "2"]) == 0
    assert main(["check", str(parts)]) == 0

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(parts, comm=comm) as session:
            return session.run(None, {"x": operand(0, 2, 2)})[0]

    assert_right(local.run(2, on_rank))
    with pytest.raises(MeshError, match="sharded for 2 ranks, but there are 3"):
        local.run(3, on_rank)
    assert main(["convert", str(parts), "-o", str(tmp_path / "p"), "--to", "per-rank"]) == 2
    assert "expected one model for all ranks" in capsys.readouterr().err


def test_weights_beside_a_model_are_shared_by_its_ranks(tmp_path: Path) -> None:
    source, parts = tmp_path / "a" / "spmd.onnx", tmp_path / "parts"
    source.parent.mkdir()
    onnx.save(model(SPMD), source, save_as_external_data=True, location="w", size_threshold=45)
    assert (
        main(["convert", str(source), "-o", str(parts), "--to", "per-rank", "--ranks", "2"]) == 0
    )
    assert {path.name for path in parts.iterdir()} == {
        "manifest.json", "rank0.onnx", "rank1.onnx", "w",
    }  # fmt: skip

    def on_rank(comm: Communicator) -> Any:
        with rankwise.InferenceSession(parts, comm=comm) as session:
            return session.run(None, {"x": operand(0, 2, 2)})[0]

    assert_right(local.run(2, on_rank))
