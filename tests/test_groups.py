"""Which ranks take part in a communication node."""

from typing import Any

import pytest

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
        ({"axis_name": "ep"}, 6, "got 'ep' and the mesh pp=2,tp=3"),
        ({"axis_name": "tp"}, 4, "is of 6 ranks, but there are 4"),
    ],
)
def test_groups_that_do_not_fit_are_errors(
    attributes: dict[str, Any], size: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        members(attributes, MESH, 0, size)
