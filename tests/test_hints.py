"""Hints: what they change, and what each of them says that cannot be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import onnx
import onnxruntime
import pytest
from comparison import assert_same
from lockstep import assert_all_same, written

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.errors import HintError
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding import plan, shard
from rankwise.models.sharding.hints import Hint, read_hints, to_hints
from rankwise.models.sharding.search import Terms
from rankwise.models.sharding.write import Sharding


def hinted(case: graphs.Case, size: int = 2, **hints: Any) -> Sharding:
    """Shard a case by hints whose layouts are dims, or `whole`."""
    given = {name: {"dim": at} if isinstance(at, int) else at for name, at in hints.items()}
    return plan(load(case.model), Mesh(tp=size), Terms(hints=to_hints(given)))


def shapes(sharding: Sharding, rank: int = 0) -> dict[str, tuple[int, ...]]:
    return {name: held.shape for name, held in sharding.part(rank).held.items()}


def held(source: Path, size: int, **asked: Any) -> list[int]:
    """The bytes that ranks hold of a model that is cut as it loads, its answers compared."""
    session = onnxruntime.InferenceSession(graphs.MLP.model.SerializeToString())
    expected = session.run(None, graphs.MLP.feeds)

    def load_and_run(comm: Communicator) -> int:
        with InferenceSession(source, comm=comm, **asked) as session:
            assert_same(session.run(None, graphs.MLP.feeds), expected)
            return session.weight_bytes

    return local.run(size, load_and_run, timeout=60)


@pytest.mark.parametrize("size", (2, 3))
def test_ranks_that_cut_as_they_load_keep_hints_and_memory(size: int, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(graphs.MLP.model.SerializeToString())
    hints = {"w1": {"dim": 0}, "w2": "whole"}
    wanted = [part.weight_bytes for part in hinted(graphs.MLP, size, w1=0, w2="whole").parts]
    assert held(source, size, hints=hints) == wanted != held(source, size)
    shard(source, tmp_path / "spmd", "tp=2", representation="spmd", hints=hints)
    assert held(tmp_path / "spmd", size) == wanted
    shard(source, tmp_path / "roomy", "tp=2", representation="spmd", memory=10**6)
    assert held(tmp_path / "roomy", size) == held(source, size, memory=10**6)
    assert held(tmp_path / "roomy", size, hints=hints) == wanted


def test_hints_for_what_is_sharded_already_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(graphs.MLP.model.SerializeToString())
    shard(source, tmp_path / "cut", "tp=2")
    for sharded in (tmp_path / "cut", tmp_path / "cut" / "rank0.onnx"):
        with pytest.raises(HintError, match=" already; leave them out, or shard the whole model"):
            held(sharded, 2, hints={"w1": "whole"})


def test_a_dim_is_cut_where_a_hint_asks_for_it(tmp_path: Path) -> None:
    assert shapes(hinted(graphs.MLP))["w1/local"] == (16, 15)
    sharding = hinted(graphs.MLP, w1=0)
    assert shapes(sharding)["w1/local"] == (8, 30)
    assert_all_same(written(sharding, tmp_path), graphs.MLP)


def test_a_tensor_stays_whole_where_a_hint_asks_for_it(tmp_path: Path) -> None:
    sharding = hinted(graphs.MLP, w1="whole")
    assert shapes(sharding)["w1"] == (16, 30)
    assert shapes(sharding)["w2/local"] == (30, 5)
    assert_all_same(written(sharding, tmp_path), graphs.MLP)


def test_a_node_is_computed_whole_where_a_hint_asks_for_it(tmp_path: Path) -> None:
    case = graphs.Case(graphs.MLP.model, graphs.MLP.feeds)
    named = onnx.ModelProto()
    named.CopyFrom(case.model)
    named.graph.node[-1].name = "last"
    case = graphs.Case(named, case.feeds)
    sharding = hinted(case, last="whole")
    assert shapes(sharding)["w2"] == (30, 9)
    assert shapes(sharding)["w1/local"] == (16, 15)
    assert sharding.parts[0].collectives == {"AllGather": 1}
    assert_all_same(written(sharding, tmp_path), case)


def test_a_pattern_names_many_and_a_dim_counts_from_the_end() -> None:
    held = shapes(hinted(graphs.MLP, **{"w[2]": -2}))
    assert (held["w1/local"], held["w2/local"]) == ((16, 15), (15, 9))


def test_an_activation_can_be_named_and_so_can_a_node() -> None:
    assert shapes(hinted(graphs.MLP, h1=1))["w1/local"] == (16, 15)
    named = onnx.ModelProto()
    named.CopyFrom(graphs.MLP.model)
    named.graph.node[-1].name = "last"
    held = shapes(hinted(graphs.Case(named, graphs.MLP.feeds), last=1))
    assert held["w2/local"] == (30, 5)


def test_heads_are_taken_one_by_one_where_a_hint_asks_for_it(tmp_path: Path) -> None:
    """Three groups are too few for four ranks: only the six heads can be cut."""
    sharding = hinted(graphs.GROUPED_QUERIES, 4, wq=1)
    assert shapes(sharding)["wq/local"][1] < 24
    assert_all_same(written(sharding, tmp_path), graphs.GROUPED_QUERIES)


def test_a_node_stays_whole_where_heads_are_taken_one_by_one(tmp_path: Path) -> None:
    named = onnx.ModelProto()
    named.CopyFrom(graphs.GROUPED_QUERIES.model)
    (out,) = (node for node in named.graph.node if "wo" in node.input)
    out.name = "out"
    case = graphs.Case(named, graphs.GROUPED_QUERIES.feeds)
    sharding = hinted(case, 4, wq=1, out="whole")
    held = shapes(sharding)
    assert held["wq/local"][1] < 24
    assert "wo" in held
    assert_all_same(written(sharding, tmp_path), case)


def test_shard_takes_a_mapping(tmp_path: Path) -> None:
    onnx.save(graphs.MLP.model, tmp_path / "m.onnx")
    shard(tmp_path / "m.onnx", tmp_path / "out", "tp=2", hints={"w1": {"dim": 0}})
    first = onnx.load(tmp_path / "out" / "rank0.onnx", load_external_data=False)
    assert [8, 30] in [list(tensor.dims) for tensor in first.graph.initializer]


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hints.yaml"
    path.write_text("'*.weight': whole\n'/lm_head/*':\n  dim: 1\n")
    assert read_hints(path) == (Hint("*.weight", None), Hint("/lm_head/*", 1))
    path.write_text("")
    assert read_hints(path) == ()


TABLES = graphs.build(
    """(float[b,s,12] x) => (float[b,s,8] y, float[1,12] z) {
      n = Softmax(x)
      a = Mul(n, scale)
      y = MatMul(a, w)
      z = Identity(row)
    }""",
    scale=(12,), w=(12, 8), row=(1, 12),
)  # fmt: skip

WRONG = {
    "no name": ({"scal": "whole"}, "hint 'scal' matches no tensor and no node; near it: scale"),
    "nothing near": ({"qqqq*": "whole"}, "matches no tensor and no node; rankwise inspect shows"),
    "no layout": ({"w": "row"}, "expected whole or a dim, as in {dim: 1}, as the layout of hint"),
    "a dim in words": ({"w": {"dim": "one"}}, "got {'dim': 'one'}"),
    "a truth": ({"w": {"dim": True}}, "got {'dim': True}"),
    "beyond": ({"w": {"dim": 2}}, "hint 'w' cuts dim 2, but 'w' has dims 0 to 1"),
    "of size 1": ({"row": {"dim": 0}}, "cannot cut dim 0 of 'row': it is of size 1"),
    "open": ({"x": {"dim": 1}}, "cannot cut dim 1: its size depends on what is fed, and nothing"),
    "too few": ({"w": {"dim": 1}}, "cannot cut dim 1 of 'w': its 8 parts are fewer than 9 ranks"),
    "needed whole": ({"x": {"dim": 2}}, "cannot cut dim 2 of 'x': Softmax 'n' needs it whole"),
    "one axis": (
        {"w": {"dim": 1}, "y": "whole"},
        "hint 'w' cuts what hint 'y' keeps whole: an axis of 8",
    ),
    "two axes": (
        {"w": {"dim": 0}, "y": {"dim": 2}},
        "hint 'w' cuts an axis of 12 and hint 'y' one of 8, but MatMul 'y' has both",
    ),
    "no mapping": (["w"], "expected patterns and layouts, as in {'*.weight': 'whole'}, got ['w']"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_hint_that_cannot_be_kept_says_why(name: str) -> None:
    hints, message = WRONG[name]
    with pytest.raises(HintError) as error:
        size = 9 if name == "too few" else 2
        plan(load(TABLES), Mesh(tp=size), Terms(hints=to_hints(hints)))
    assert message in str(error.value)


def test_an_operator_without_a_rule_is_named_with_its_reason() -> None:
    model = graphs.build(
        "(float[b,8] x) => (int64[2,n] y, float[8,3] z) { y = NonZero(x) \n z = Relu(w) }",
        w=(8, 3),
    )
    with pytest.raises(HintError, match=r"NonZero 'y' needs it whole, since the size of its out"):
        plan(load(model), Mesh(tp=2), Terms(hints=to_hints({"x": {"dim": 1}})))


def test_no_yaml_is_said(tmp_path: Path) -> None:
    path = tmp_path / "hints.yaml"
    path.write_text("{")
    with pytest.raises(HintError, match=r"hints.yaml is no YAML: while parsing"):
        read_hints(path)
