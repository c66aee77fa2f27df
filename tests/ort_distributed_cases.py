"""onnxruntime's own tests of its Distributed operators, as data; and how one is run.

Names and shapes are those of onnxruntime_test_distributed.py. Meshes are 1-D there; ours may have
any shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from rankwise import InferenceSession
from rankwise.collectives import Communicator

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lies:
    """A spec and its mesh."""

    spec: str
    mesh: Any = (0, 1)

    @property
    def tokens(self) -> list[str]:
        return self.spec.replace("R", " R").replace("S", " S").split()

    def part(self, whole: Array, rank: int) -> Array:
        """A rank's part, by walking over the mesh; the first one's for a rank outside of it."""
        mesh = np.array(self.mesh)
        places = np.argwhere(mesh == (rank if rank in mesh else mesh.flat[0]))
        for dim, token in enumerate(self.tokens):
            if token != "R":
                axis = int(token[2:-1])
                parts = np.array_split(whole, mesh.shape[axis], dim)
                whole = np.concatenate([parts[k] for k in np.unique(places[:, axis])], dim)
        return whole


@dataclass(frozen=True)
class Case:
    """One node, its whole operands, and where all of them lie."""

    op: str
    operands: Sequence[Any]
    """arrays; a shape stands for one of that many elements"""
    given: Sequence[Lies]
    wanted: Lies
    attributes: dict[str, Any] = field(default_factory=dict)
    open_dims: tuple[str, ...] = ()
    """names that the file gives to cut dims, in the place of sizes"""
    fixed: bool = False
    """the operands after the first are constants of the file"""
    ranks: int = 2

    def arrays(self) -> list[Array]:
        return [drawn(x) if isinstance(x, tuple) else np.array(x, np.int64) for x in self.operands]

    def whole(self) -> Array:
        """What numpy makes of whole operands."""
        first, *rest = self.arrays()
        return np.asarray(NUMPY[self.op](self, first, *rest))

    def model(self, rank: int) -> ModelProto:
        attributes = {**self.attributes}
        for side, row in (("input", self.given), ("output", [self.wanted])):
            meshes = [np.array(lies.mesh) for lies in row]
            attributes[f"{side}_shard_specs"] = [lies.spec for lies in row]
            attributes[f"{side}_device_mesh_shapes"] = [text(mesh.shape) for mesh in meshes]
            attributes[f"{side}_device_mesh_elements"] = [text(mesh.flat) for mesh in meshes]
        names = [f"x{k}" for k in range(len(self.operands))]
        op_type = f"Distributed{self.op}"
        node = helper.make_node(op_type, names, ["y"], domain="com.microsoft", **attributes)
        values = self.parts(rank)
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), dims)
            for name, value, dims in zip(names, values, self.dims(values), strict=True)
        ]
        made = self.wanted.part(self.whole(), rank)
        dims = [None] * made.ndim if self.open_dims else list(made.shape)
        output = helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, dims)
        constants = []
        if self.fixed:
            constants = [
                helper.make_tensor(name, 7, value.shape, value.ravel())
                for name, value in zip(names[1:], values[1:], strict=True)
            ]
            inputs = inputs[:1]
        graph = helper.make_graph([node], "case", inputs, [output], constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def dims(self, values: Sequence[Array]) -> list[list[Any]]:
        """The dims that the file declares: of cut ones the names, where there are any."""
        rows, left = [], list(self.open_dims)
        for lies, value in zip(self.given, values, strict=False):
            row: list[Any] = list(value.shape)
            for dim, token in enumerate(lies.tokens):
                if token != "R" and left:
                    row[dim] = left.pop(0)
            rows.append(row)
        return rows

    def parts(self, rank: int) -> list[Array]:
        return [lies.part(x, rank) for lies, x in zip(self.given, self.arrays(), strict=False)]

    def check(self, comm: Communicator) -> None:
        """Run it, and compare this rank's part with numpy's."""
        feeds = {f"x{k}": part for k, part in enumerate(self.parts(comm.rank))}
        model = self.model(comm.rank)
        with InferenceSession(model.SerializeToString(), comm=comm) as session:
            kept = {value.name for value in session.get_inputs()}
            (got,) = session.run(None, {k: v for k, v in feeds.items() if k in kept})
        if (np.array(self.wanted.mesh) == comm.rank).any():
            wanted = self.wanted.part(self.whole(), comm.rank)
            assert got.shape == wanted.shape, (got.shape, wanted.shape)
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        else:
            assert got.size == 0


def drawn(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(sum(shape)).integers(0, 9, shape).astype(np.float32)


def text(numbers: Any) -> str:
    return "[" + ",".join(str(int(n)) for n in numbers) + "]"


def _slice(case: Case, x: Array, starts: Array, ends: Array, axes: Array) -> Array:
    index = [slice(None)] * x.ndim
    for start, end, axis in zip(starts, ends, axes, strict=True):
        index[axis] = slice(start, end)
    return x[tuple(index)]


def _reduce(function: Any) -> Any:
    return lambda case, x, axes: function(
        x, axis=tuple(axes), keepdims=bool(case.attributes.get("keepdims", 1))
    )


NUMPY: dict[str, Any] = {
    "MatMul": lambda case, a, b: np.matmul(a, b),
    "Reshape": lambda case, x, shape: x.reshape(shape),
    "Expand": lambda case, x, shape: x * np.ones(shape, x.dtype),
    "Slice": _slice,
    "Squeeze": lambda case, x, axes: np.squeeze(x, tuple(axes)),
    "Unsqueeze": lambda case, x, axes: np.expand_dims(x, tuple(axes)),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
}


def specs(rank: int, axes: int) -> list[str]:
    """All specs of so many dims on a mesh of so many axes."""
    tokens = ["R", *(f"S[{m}]" for m in range(axes))]
    rows = itertools.product(tokens, repeat=rank)
    return ["".join(row) for row in rows if all(row.count(t) < 2 for t in tokens[1:])]


def reshape(
    shape: tuple[int, ...], target: tuple[int, ...], given: Lies, wanted: Lies, op: str = "Reshape"
) -> Case:
    return Case(op, [shape, list(target)], [given, Lies("R", given.mesh)], wanted)


def matmul(a: tuple[int, ...], b: tuple[int, ...], specs: str, *names: str) -> Case:
    first, second, made = specs.split()
    return Case("MatMul", [a, b], [Lies(first), Lies(second)], Lies(made), open_dims=names)


def reduce(op: str, axes: list[int], spec: str) -> Case:
    return Case(op, [(8, 4), axes], [Lies(spec), Lies("R")], Lies(spec), {"keepdims": 1})


TWICE, THRICE = (0, 1) * 2, (0, 1) * 3

ORT: dict[str, Case] = {
    # TestDistributedReshape
    "fusion_2_3_sr_01_6_s_01": reshape((2, 3), (6,), Lies("S[0]R"), Lies("S[0]")),
    "fusion_2_4_rs_01_8_s_0101": reshape((2, 4), (8,), Lies("RS[0]"), Lies("S[0]", TWICE)),
    "fusion_2_3_5_srr_2_15_sr": reshape((2, 3, 5), (2, 15), Lies("S[0]RR"), Lies("S[0]R")),
    "fusion_2_3_5_rsr_2_15_sr": reshape((2, 4, 5), (2, 20), Lies("RS[0]R"), Lies("RS[0]")),
    "fusion_2_3_6_rrs_2_18_rs_010101": reshape(
        (2, 3, 6), (2, 18), Lies("RRS[0]"), Lies("RS[0]", THRICE)
    ),
    "decomposition_6_s_2_3_sr": reshape((6,), (2, 3), Lies("S[0]"), Lies("S[0]R")),
    "decomposition_16_s_01_1_16": reshape((16,), (1, 16), Lies("S[0]"), Lies("RS[0]")),
    "decomposition_16_s_01_2_8": reshape((16,), (2, 8), Lies("S[0]"), Lies("S[0]R")),
    "decomposition_16_s_01_4_4": reshape((16,), (4, 4), Lies("S[0]"), Lies("S[0]R")),
    "decomposition_16_s_01_8_2": reshape((16,), (8, 2), Lies("S[0]"), Lies("S[0]R")),
    "decomposition_16_s_01_16_1": reshape((16,), (16, 1), Lies("S[0]"), Lies("S[0]R")),
    "decomposition_16_s_0101_1_16": reshape(
        (16,), (1, 16), Lies("S[0]", TWICE), Lies("RS[0]", TWICE)
    ),
    "decomposition_16_s_0101_2_8_rs_01": reshape(
        (16,), (2, 8), Lies("S[0]", TWICE), Lies("RS[0]")
    ),
    "decomposition_16_s_0101_4_4": reshape(
        (16,), (4, 4), Lies("S[0]", TWICE), Lies("S[0]R", TWICE)
    ),
    "decomposition_16_s_0101_8_2": reshape(
        (16,), (8, 2), Lies("S[0]", TWICE), Lies("S[0]R", TWICE)
    ),
    "decomposition_16_s_0101_16_1": reshape(
        (16,), (16, 1), Lies("S[0]", TWICE), Lies("S[0]R", TWICE)
    ),
    "decomposition_21_4096_s_3_7_4096_rrs": reshape(
        (21, 4096), (3, 7, 4096), Lies("RS[0]"), Lies("RRS[0]")
    ),
    "decomposition_3_7_4096_rrs_3_7_64_64_rrsr": reshape(
        (3, 7, 4096), (3, 7, 64, 64), Lies("RRS[0]"), Lies("RRS[0]R")
    ),
    "fusion_3_7_4096_rrr_21_4906_rr": reshape((3, 7, 4096), (21, 4096), Lies("RRR"), Lies("RR")),
    "fusion_21_4096_rrr_3_7_4906_rr": reshape((21, 4096), (3, 7, 4096), Lies("RR"), Lies("RRR")),
    "fusion_3_64_7_64_rsrr_192_7_64_srr_010101": reshape(
        (3, 64, 7, 64), (192, 7, 64), Lies("RS[0]RR"), Lies("S[0]RR", THRICE)
    ),
    "decomposition_192_7_7_srr_010101_3_64_7_7_rsrr": reshape(
        (192, 7, 7), (3, 64, 7, 7), Lies("S[0]RR", THRICE), Lies("RS[0]RR")
    ),
    "fusion_3_64_7_7_rsrr_192_7_7_srr_010101": reshape(
        (3, 64, 7, 7), (192, 7, 7), Lies("RS[0]RR"), Lies("S[0]RR", THRICE)
    ),
    "decomposition_192_7_64_srr_010101_3_64_7_64_rsrr": reshape(
        (192, 7, 64), (3, 64, 7, 64), Lies("S[0]RR", THRICE), Lies("RS[0]RR")
    ),
    "fusion_3_7_64_64_rrsr_3_7_4096_rrs": reshape(
        (3, 7, 64, 64), (3, 7, 4096), Lies("RRS[0]R"), Lies("RRS[0]")
    ),
    "fusion_3_7_4096_rrs_21_4906_rs": reshape(
        (3, 7, 4096), (21, 4096), Lies("RRS[0]"), Lies("RS[0]")
    ),
    # TestDistributedExpand
    "expand_sharded_on_expanded_axis": reshape(
        (8, 1), (8, 4), Lies("RR"), Lies("RS[0]"), "Expand"
    ),
    "expand_sharded_on_expanded_axis_with_device_mesh_0101": reshape(
        (8, 1), (8, 8), Lies("RR"), Lies("RS[0]", TWICE), "Expand"
    ),
    "expand_replicated_on_expanded_axis": reshape(
        (8, 1), (1, 4), Lies("RR"), Lies("RR"), "Expand"
    ),
    "expand_with_pass_through_sharding_spec": reshape(
        (8, 1), (1, 4), Lies("S[0]R"), Lies("S[0]R"), "Expand"
    ),
    "expand_in_tiny_llama": reshape(
        (2, 4, 256, 4), (2, 4, 256, 4), Lies("RS[0]RR"), Lies("RS[0]RR"), "Expand"
    ),
    # TestDistributedReduce: two tests, each of three operators
    "reduce_sum": reduce("ReduceSum", [0], "RR"),
    "reduce_max": reduce("ReduceMax", [0], "RR"),
    "reduce_mean": reduce("ReduceMean", [0], "RR"),
    "reduce_sharded_sum": reduce("ReduceSum", [1], "S[0]R"),
    "reduce_sharded_max": reduce("ReduceMax", [1], "S[0]R"),
    "reduce_sharded_mean": reduce("ReduceMean", [1], "S[0]R"),
    # TestDistributed
    "matmul_rs_sr_rr": matmul((2, 4), (4, 2), "RS[0] S[0]R RR", "s", "s"),
    "matmul2d_rs_rs_rr": matmul((2, 4), (4, 2), "RS[0] RS[0] RR", "s", "t"),
    "matmul2d_rs_rs_rs": matmul((2, 4), (4, 2), "RS[0] RS[0] RS[0]", "s", "t"),
    "matmul_srr_rr_srr": matmul((2, 2, 4), (4, 2), "S[0]RR RR S[0]RR", "s"),
    "matmul_srr_rrrr_rsrr": matmul((2, 2, 4), (1, 2, 4, 2), "S[0]RR RRRR RS[0]RR", "s"),
    "matmul_sr_rs_rr": matmul((4, 2), (2, 2), "S[0]R RS[0] RR", "s", "t"),
    "matmul_rr_rs_rs": matmul((4, 2), (2, 4), "RR RS[0] RS[0]", "s"),
    "matmul_rr_sr_rr": matmul((4, 2), (2, 6), "RR S[0]R RR", "s"),
    "slice_sr_axis1": Case(
        "Slice", [(2, 4), [0], [2], [1]], [Lies("S[0]R"), *[Lies("R")] * 4], Lies("S[0]R")
    ),
    "slice_rs_axis1": Case(
        "Slice", [(2, 4), [0], [2], [1]], [Lies("RS[0]"), *[Lies("R")] * 4], Lies("RS[0]")
    ),
}
