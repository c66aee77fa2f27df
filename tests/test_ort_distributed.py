"""onnxruntime's Distributed operators, at its own cases and at those that it refuses."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MpiRun
from onnx import helper
from ort_distributed_cases import ORT, Case, Lies, matmul, specs

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.check import check as check_plans
from rankwise.models.check import slim
from rankwise.models.dialects.ort_distributed import lowered
from rankwise.models.errors import ModelError
from rankwise.models.plan import build_plan
from rankwise.runtime.cli import main

GRID = ((0, 1), (2, 3))


def check(case: Case) -> None:
    local.run(case.ranks, case.check)


def test_there_are_as_many_as_there() -> None:
    assert len(ORT) - 4 == 43  # the two tests of reductions are of three operators each


@pytest.mark.parametrize("name", ORT)
def test_cases_of_onnxruntime(name: str) -> None:
    check(ORT[name])


def test_what_is_local_there_is_local_here() -> None:
    for name, ops in [
        ("fusion_2_4_rs_01_8_s_0101", []),
        ("decomposition_192_7_7_srr_010101_3_64_7_7_rsrr", []),
        ("decomposition_16_s_0101_8_2", []),
        ("expand_sharded_on_expanded_axis_with_device_mesh_0101", []),
        ("reduce_sharded_mean", []),
        ("matmul_rs_sr_rr", ["AllReduce"]),
        ("matmul_rr_rs_rs", []),
        ("matmul_srr_rrrr_rsrr", []),
        ("matmul_rr_sr_rr", ["AllReduce"]),
        ("matmul_sr_rs_rr", ["AllGather"]),
    ]:
        for rank in range(2):
            nodes = lowered(ORT[name].model(rank), rank, 2).graph.node
            found = [node.op_type for node in nodes if node.domain == "rankwise"]
            assert len(found) == len(ops) if name != "matmul_sr_rs_rr" else found, name
            assert set(ops) <= set(found), (name, found)


MATRICES = [
    Case("MatMul", [(4, 8), (8, 12)], [Lies(a), Lies(b)], Lies(c))
    for a, b, c in itertools.product(specs(2, 1), repeat=3)
]
"""Both whole, which onnxruntime leaves uncomputed, and S[0]R S[0]R to RR, which it leaves partial,
are among them."""


@pytest.mark.parametrize("case", MATRICES, ids=lambda case: f"{case.given[0].spec}")
def test_every_product_of_two_matrices(case: Case) -> None:
    check(case)


OTHERS = {
    "both batches cut": Case(
        "MatMul", [(4, 2, 6), (4, 6, 2)], [Lies("S[0]RR"), Lies("S[0]RR")], Lies("S[0]RR")
    ),
    "vectors": Case("MatMul", [(8,), (8,)], [Lies("S[0]"), Lies("R")], Lies("")),
    "a vector": Case("MatMul", [(8,), (8, 4)], [Lies("S[0]"), Lies("RS[0]")], Lies("S[0]")),
    "reduced along what is cut": Case(
        "ReduceMean", [(8, 4), [0]], [Lies("S[0]R"), Lies("R")], Lies("RS[0]"), {"keepdims": 1}
    ),
    "reduced along both": Case(
        "ReduceSum", [(8, 4), [0, 1]], [Lies("RS[0]"), Lies("R")], Lies(""), {"keepdims": 0},
        fixed=True,
    ),
    "reduced and moved": Case(
        "ReduceMax", [(8, 4), [1]], [Lies("S[0]R"), Lies("R")], Lies("RR"), {"keepdims": 1}
    ),
    "sliced along what is cut": Case(
        "Slice", [(8, 4), [1], [7], [0]], [Lies("S[0]R"), *[Lies("R")] * 3], Lies("S[0]R")
    ),
    "sliced by constants": Case(
        "Slice", [(8, 6), [1], [4], [1]], [Lies("S[0]R"), *[Lies("R")] * 3], Lies("S[0]R"),
        fixed=True,
    ),
    "sliced into what is cut": Case(
        "Slice", [(8, 4), [0], [2], [1]], [Lies("S[0]R"), *[Lies("R")] * 3], Lies("RS[0]")
    ),
    "three dims of one": Case(
        "Reshape", [(24,), [2, 3, 4]], [Lies("S[0]"), Lies("R")], Lies("RRS[0]")
    ),
    "transposed by hand": Case(
        "Reshape", [(4, 6), [6, 4]], [Lies("RS[0]"), Lies("R")], Lies("S[0]R")
    ),
    "irregular repeats": Case(
        "Reshape", [(16,), [16]], [Lies("S[0]", (0, 1, 1, 0)), Lies("R")], Lies("S[0]")
    ),
    "squeezed": Case(
        "Squeeze", [(4, 1, 6), [1]], [Lies("S[0]RR"), Lies("R")], Lies("S[0]R"), fixed=True
    ),
    "squeezed and moved": Case(
        "Squeeze", [(4, 1, 6), [1]], [Lies("S[0]RR"), Lies("R")], Lies("RS[0]")
    ),
    "unsqueezed": Case(
        "Unsqueeze", [(4, 6), [0]], [Lies("RS[0]"), Lies("R")], Lies("RRS[0]")
    ),
    "expanded and moved": Case(
        "Expand", [(4, 1), [4, 6]], [Lies("S[0]R"), Lies("R")], Lies("RS[0]")
    ),
    "on a grid": Case(
        "MatMul", [(4, 8), (8, 6)],
        [Lies("S[0]S[1]", GRID), Lies("S[1]R", GRID)], Lies("S[0]R", GRID), ranks=4,
    ),
    "from one grid to another": Case(
        "MatMul", [(4, 8), (8, 6)],
        [Lies("S[1]S[0]", GRID), Lies("S[0]S[1]", GRID)],
        Lies("S[0]S[1]", ((3, 1), (0, 2))), ranks=4,
    ),
    "on a mesh of a few": Case(
        "MatMul", [(4, 8), (8, 6)],
        [Lies("RS[0]", (1, 3)), Lies("S[0]R", (3, 1))], Lies("RS[0]", (0, 2, 3)), ranks=4,
    ),
    "on three ranks": Case(
        "MatMul", [(6, 9), (9, 3)],
        [Lies("RS[0]", (0, 1, 2)), Lies("RS[0]", (2, 1, 0))], Lies("S[0]R", (0, 1, 2)), ranks=3,
    ),
    "a grid with repeats": Case(
        "Reshape", [(8, 6), [48]],
        [Lies("RS[1]", ((0, 1), (0, 1))), Lies("R")], Lies("S[0]", (0, 1) * 8),
    ),
    "reduced on a grid": Case(
        "ReduceSum", [(8, 6), [0]],
        [Lies("S[0]S[1]", GRID), Lies("R", GRID)], Lies("RS[1]", GRID), {"keepdims": 1}, ranks=4,
    ),
    "reshaped on a grid": Case(
        "Reshape", [(8, 12), [2, 4, 3, 4]],
        [Lies("S[0]S[1]", GRID), Lies("R", GRID)], Lies("S[0]RRS[1]", GRID), ranks=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_cases_that_onnxruntime_refuses(name: str) -> None:
    check(OTHERS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_the_programs_of_all_ranks_fit(name: str) -> None:
    case = OTHERS[name]
    models = [lowered(case.model(rank), rank, case.ranks) for rank in range(case.ranks)]
    plans = [slim(build_plan(model), None) for model in models]
    assert not check_plans(plans, [None] * case.ranks).findings


def test_sizes_that_are_open_may_be_cut_unevenly() -> None:
    for given, names in [("RS[0] S[0]R RR", "st"), ("S[0]R RR RR", "s"), ("RR RS[0] RS[0]", "s")]:
        check(matmul((5, 7), (7, 3), given, *names))


def test_the_older_form_has_one_mesh() -> None:
    model = matmul((2, 4), (4, 2), "RS[0] S[0]R RR").model(0)
    (node,) = model.graph.node
    for entry in list(node.attribute):
        if "mesh" in entry.name:
            node.attribute.remove(entry)
    node.attribute.append(helper.make_attribute("device_mesh_shape", [2]))
    node.attribute.append(helper.make_attribute("device_mesh_elements", [0, 1]))
    made = [node.op_type for node in lowered(model, 0, 2).graph.node]
    assert "AllReduce" in made


def changed(**attributes: object) -> onnx.ModelProto:
    model = ORT["matmul_rs_sr_rr"].model(0)
    (node,) = model.graph.node
    kept = [entry for entry in node.attribute if entry.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items() if v)
    return model


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"input_shard_specs": ["RS[0]"]}, "each of 2 inputs"),
        ({"input_shard_specs": ["RS[0]", "S[0]"]}, "spec of 2 dims for 'x1'"),
        ({"input_shard_specs": ["RQ", "S[0]R"]}, "a spec such as"),
        ({"output_shard_specs": ["S[1]R"]}, "axes below 1"),
        ({"output_shard_specs": ["RRR"]}, "spec of 2 dims for 'y', got 3"),
        ({"output_device_mesh_elements": ["[0,2]"]}, "devices below 2"),
        ({"output_device_mesh_shapes": ["[3]"]}, "as many devices"),
        ({"output_device_mesh_shapes": None}, "numbers such as|each of 1 outputs|as many"),
    ],
)
def test_specs_that_do_not_fit(attributes: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        lowered(changed(**attributes), 0, 2)


def test_plain_nodes_between_work_on_parts() -> None:
    case = replace(ORT["matmul_rr_rs_rs"], open_dims=())

    def answer(comm: Communicator) -> None:
        model = case.model(comm.rank)
        model.graph.node[0].output[0] = "z"
        twice = helper.make_node("Add", ["z", "z"], ["y"])
        model.graph.node.append(twice)
        x, w = case.parts(comm.rank)
        with InferenceSession(model.SerializeToString(), comm=comm) as session:
            (got,) = session.run(None, {"x0": x, "x1": w})
        np.testing.assert_allclose(got, 2 * case.wanted.part(case.whole(), comm.rank))

    local.run(2, answer)


def test_the_command_line_converts_and_checks(tmp_path: Path) -> None:
    case = ORT["matmul_rs_sr_rr"]
    onnx.save(case.model(0), tmp_path / "theirs.onnx")
    made = tmp_path / "ours"
    assert main(["check", "-n", "2", str(tmp_path / "theirs.onnx")]) == 0
    given = [str(tmp_path / "theirs.onnx"), "--to", "per-rank", "-o", str(made)]
    assert main(["convert", *given]) == 2
    assert main(["convert", *given, "--ranks", "2"]) == 0
    assert main(["check", str(made)]) == 0

    def answer(comm: Communicator) -> None:
        x, w = case.parts(comm.rank)
        with InferenceSession(made, comm=comm) as session:
            (got,) = session.run(None, {"x0": x, "x1": w})
        np.testing.assert_allclose(got, case.whole())

    local.run(2, answer)


def test_one_rank_computes_all_of_it() -> None:
    for name in ("matmul_rs_sr_rr", "reduce_sharded_max", "slice_rs_axis1"):
        case = ORT[name]
        given = [replace(lies, mesh=(0,)) for lies in case.given]
        check(replace(case, given=given, wanted=replace(case.wanted, mesh=(0,)), ranks=1))


@pytest.mark.mpi
def test_a_sample_under_mpirun(mpirun: MpiRun) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from ort_distributed_cases import ORT
from rankwise.collectives import Communicator

with Communicator.world() as comm:
    for name in list(ORT)[::5]:
        ORT[name].check(comm)
    (ranks,) = comm.allreduce([1])
    if comm.rank == 0:
        print("right on", ranks, "ranks")
"""
    done = mpirun(2, program)
    assert (done.returncode, done.stdout) == (0, "right on 2 ranks\n"), done.stderr
