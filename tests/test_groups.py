"""Which ranks take part in a communication node."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, parser
from sessions import operands, run

from rankwise.models.errors import ModelError
from rankwise.models.groups import members
from rankwise.models.mesh import Mesh

MESH = Mesh(pp=2, dp=1, tp=3)


@pytest.mark.parametrize(
    ("attributes", "rank", "expected"),
    [
        ({}, 4, (0, 1, 2, 3, 4, 5)),
        ({"axis_name": "tp"}, 4, (3, 4, 5)),
        ({"axis_name": "pp"}, 4, (1, 4)),
        ({"axis_name": "dp"}, 4, (4,)),
        ({"groups": [5, 0, 4, 1], "group_size": 2}, 4, (4, 1)),
        ({"groups": [4, 2]}, 2, (4, 2)),
    ],
)
def test_members_come_in_group_order(
    attributes: dict[str, Any], rank: int, expected: tuple[int, ...]
) -> None:
    assert members(attributes, MESH, rank, 6) == expected


@pytest.mark.parametrize(
    ("attributes", "size", "message"),
    [
        ({"groups": [1, 2]}, 6, r"rank 0 is in none of the groups \[1, 2\]"),
        ({"groups": [0, 1, 2], "group_size": 2}, 6, "groups of group_size ranks"),
        ({"groups": [0, 1], "group_size": 0}, 6, "groups of group_size ranks"),
        ({"groups": [0, 6]}, 6, r"different ranks below 6, got \[0, 6\]"),
        ({"groups": [0, 0]}, 6, r"different ranks below 6, got \[0, 0\]"),
        ({"groups": [0, 1, 1, 2], "group_size": 2}, 6, r"in common, got \[\[0, 1\], \[1, 2\]\]"),
        ({"groups": [0, 1], "axis_name": "tp"}, 6, r"groups or axis_name, got \[0, 1\] and 'tp'"),
        ({"group_size": 2}, 6, "expected groups beside group_size"),
        ({"axis_name": "ep"}, 6, "got 'ep' and the mesh pp=2,tp=3"),
        ({"axis_name": "tp"}, 4, "is of 6 ranks, but there are 4"),
    ],
)
def test_groups_that_do_not_fit_are_errors(
    attributes: dict[str, Any], size: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        members(attributes, MESH, 0, size)


def model(body: str, **metadata: str) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    made = parser.parse_model(f"{header} g (float[n,m] x) => (y) {{ {body} }}")
    helper.set_model_props(made, {key.replace("_", "."): text for key, text in metadata.items()})
    return made


SEVERAL = """
    a = rankwise.AllReduce<axis_name="tp">(x)
    b = rankwise.AllGather<axis_name="rows.tp">(a)
    c = rankwise.AllReduce<axis_name="rows.dp", op="max">(b)
    r = rankwise.Rank<axis_name="half.tp">() s = Cast<to=1>(r) y = Add(c, s)
"""


def test_a_model_has_several_meshes() -> None:
    made = model(
        SEVERAL,
        rankwise_mesh="tp=4",
        rankwise_mesh_rows="dp=2,tp=2",
        rankwise_mesh_half="pp=2,tp=2",
    )
    total = sum(operands(4))
    for rank, (y,) in enumerate(run(4, made)):
        np.testing.assert_array_equal(y, np.concatenate([total, total]) + rank % 2)


def test_groups_of_different_nodes_overlap() -> None:
    pairs = {0: [(0, 1)], 1: [(0, 1), (1, 2)], 2: [(1, 2)]}

    def of_rank(rank: int) -> onnx.ModelProto:
        nodes, made = [], "x"
        for first, second in pairs[rank]:
            nodes.append(f"v{second} = rankwise.AllReduce<groups=[{first}, {second}]>({made})")
            made = f"v{second}"
        return model(" ".join(nodes) + f" y = Neg({made})")

    a, b, c = operands(3)
    for got, expected in zip(run(3, of_rank), (a + b, a + b + c, a + b + c), strict=True):
        np.testing.assert_array_equal(got[0], -expected)


def test_a_ring_of_overlapping_groups_comes_in_one_order_or_is_refused() -> None:
    def of_rank(rank: int, order: dict[int, list[int]]) -> onnx.ModelProto:
        nodes = [f"v{k} = rankwise.AllReduce<groups=[{k}, {(k + 1) % 3}]>(x)" for k in order[rank]]
        names = ", ".join(f"v{k}" for k in sorted(order[rank]))
        return model(" ".join(nodes) + f" y = Sum({names})")

    a, b, c = operands(3)
    right = {0: [0, 2], 1: [0, 1], 2: [1, 2]}
    results = run(3, lambda rank: of_rank(rank, right))
    for (y,), other in zip(results, (b + c, a + c, a + b), strict=True):
        np.testing.assert_array_equal(y, (a + b + c) * 2 - other)
    wrong = {0: [0, 2], 1: [1, 0], 2: [2, 1]}
    with pytest.raises(ModelError, match=r"rank \d, AllReduce 'v\d'") as caught:
        run(3, lambda rank: of_rank(rank, wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axis", "metadata", "message"),
    [
        ("rows.tp", {}, "got 'rows.tp' and no rankwise.mesh"),
        ("rows.tp", {"rankwise_mesh": "tp=3"}, "got 'rows.tp' and the mesh tp=3"),
        ("rows.ep", {"rankwise_mesh_rows": "tp=3"}, "the meshes rows tp=3, got rows.ep"),
        ("cols.tp", {"rankwise_mesh_rows": "tp=3"}, "the meshes rows tp=3, got cols.tp"),
        ("rows.tp", {"rankwise_mesh_rows": "tp"}, "expected a mesh such as tp=4"),
        ("rows.tp", {"rankwise_mesh_rows": "tp=2"}, r"rank 2 is in none of the groups \[0, 1\]"),
        ("rows.tp", {"rankwise_mesh_rows": "tp=4"}, r"ranks below 3, got \[0, 1, 2, 3\]"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(
    axis: str, metadata: dict[str, str], message: str
) -> None:
    made = model(f'y = rankwise.AllReduce<axis_name="{axis}">(x)', **metadata)
    with pytest.raises(ValueError, match=message) as caught:
        run(3, made)
    assert "\n" not in str(caught.value)
