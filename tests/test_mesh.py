"""The mesh: what is read and what is refused."""

from __future__ import annotations

import pytest

from rankwise.models.errors import MeshError
from rankwise.models.mesh import Mesh


def test_a_mesh_is_read_from_text_and_from_a_mapping() -> None:
    assert Mesh.parse("tp=2,pp=3") == Mesh.parse({"pp": 3, "tp": 2}) == Mesh(pp=3, tp=2)
    assert Mesh.parse("tp=2, pp=3").size == 6
    assert str(Mesh.parse("tp=1")) == "tp=1"


@pytest.mark.parametrize(
    "text", ["", "tp", "tp=", "tp=x", "tp=0", "tp=-1", "tp=2,tp=2", "zp=2", "4", "tp=2;pp=2"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MeshError, match="mesh"):
        Mesh.parse(text)
