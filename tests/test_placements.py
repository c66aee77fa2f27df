"""Placements, their two notations, and what devices hold, against loops and slices by hand."""

import doctest
import itertools
import math

import numpy as np
import pytest
from onnx import ShardingSpecProto

from rankwise.models.dialects import ort_specs
from rankwise.models.dialects.annotation_specs import read_spec, write_spec
from rankwise.models.dialects.ort_specs import Spec
from rankwise.models.errors import PlacementError
from rankwise.models.placing import placement
from rankwise.models.placing.placement import Cut, Factor, Placement, cut, with_one_block

MESHES = [
    ((2,), (0, 1)), ((4,), (0, 1, 2, 3)), ((4,), (0, 1, 0, 1)), ((4,), (0, 0, 1, 1)),
    ((2,), (1, 0)), ((2, 2), (0, 1, 2, 3)), ((2, 2), (0, 2, 1, 3)), ((2, 2), (0, 1, 0, 1)),
    ((2, 2), (0, 0, 1, 1)), ((4,), (1, 0, 1, 0)), ((4,), (0, 1, 1, 0)),
]  # fmt: skip
SIZES = (8, 4, 12)
UNEVEN = (7, 5, 9)


def specs(axes: int) -> list[str]:
    """All specs of one to three dims on a mesh of so many axes."""
    tokens = ["R", *(f"S[{m}]" for m in range(axes))]
    rows = (row for rank in (1, 2, 3) for row in itertools.product(tokens, repeat=rank))
    return ["".join(row) for row in rows if all(row.count(t) < 2 for t in tokens[1:])]


CASES = [
    Spec(text, str(list(shape)), str(list(elements)))
    for shape, elements in MESHES
    for text in specs(len(shape))
]


def by_hand(spec: Spec, sizes: tuple[int, ...]) -> dict[int, np.ndarray]:
    """The elements of each device: walk over the mesh, and take the part of each dim."""
    shape, elements = map(eval, (spec.mesh_shape, spec.mesh_elements))
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    found: dict[int, np.ndarray] = {}
    for at, device in zip(np.ndindex(*shape), elements, strict=True):
        kept = np.zeros(sizes, bool)
        index = []
        for dim, token in enumerate(spec.text.replace("R", " R").replace("S", " S").split()):
            parts = [np.arange(sizes[dim])]
            axis = None if token == "R" else int(token[2:-1])
            if axis is not None:
                parts = np.array_split(parts[0], shape[axis])
            index.append(parts[0 if axis is None else at[axis]])
        kept[np.ix_(*index)] = True
        found[device] = np.union1d(found.get(device, []), numbers[kept])
    return found


def elements(placement: Placement, sizes: tuple[int, ...]) -> dict[int, np.ndarray]:
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return {d: numbers[np.ix_(*box)].ravel() for d, box in placement.held(sizes).items()}


def is_rectangle(spec: Spec) -> bool:
    try:
        spec.placement().held(SIZES[: spec.rank])
    except PlacementError:
        return False
    return True


def test_all_specs_are_placed_as_the_mesh_says() -> None:
    assert len(CASES) == 155
    for spec, sizes in itertools.product(filter(is_rectangle, CASES), (SIZES, UNEVEN)):
        sizes = sizes[: spec.rank]
        wanted, got = by_hand(spec, sizes), elements(spec.placement(), sizes)
        assert wanted.keys() == got.keys()
        for device, numbers in wanted.items():
            np.testing.assert_array_equal(np.sort(got[device]), numbers, str(spec))


def test_only_blocks_on_a_diagonal_are_no_rectangle() -> None:
    odd = {(s.mesh_elements, s.text) for s in CASES if not is_rectangle(s)}
    assert odd == set()
    crossed = Spec("S[0]S[1]", "[2,2]", "[0,1,1,0]").placement()
    with pytest.raises(PlacementError, match="no rectangle"):
        crossed.held((2, 2))


@pytest.mark.parametrize("sizes", [SIZES, UNEVEN])
def test_specs_become_annotations_and_come_back(sizes: tuple[int, ...]) -> None:
    for spec in CASES:
        placement = spec.placement()
        proto = ShardingSpecProto.FromString(write_spec("x", placement).SerializeToString())
        assert read_spec(proto, spec.rank, 4) == placement
        back = Spec.of(read_spec(proto, spec.rank, 4), spec.rank)
        assert Spec.of(back.placement(), spec.rank) == back
        if is_rectangle(spec):
            wanted = placement.held(sizes[: spec.rank])
            for device, box in back.placement().held(sizes[: spec.rank]).items():
                assert all(map(np.array_equal, box, wanted[device])), (spec, back)


def test_a_spec_that_uses_all_of_its_mesh_keeps_its_text() -> None:
    for text, shape, mesh in [
        ("S[1]S[0]", "[2,2]", "[0,1,2,3]"),
        ("RS[0]", "[4]", "[0,1,0,1]"),
        ("S[0]RS[1]", "[2,2]", "[3,1,2,0]"),
    ]:
        spec = Spec(text, shape, mesh)
        assert Spec.of(spec.placement(), spec.rank) == spec


def test_the_working_example_of_onnxruntime() -> None:
    tensor = np.array([[5, 6], [7, 8]])
    boxes = Spec("S[1]S[0]", "[2, 2]", "[0, 1, 2, 3]").placement().held((2, 2))
    assert {d: int(tensor[np.ix_(*box)].item()) for d, box in boxes.items()} == {
        0: 5, 1: 7, 2: 6, 3: 8,
    }  # fmt: skip


def test_a_fused_dim_is_the_repeated_mesh() -> None:
    fused = Placement((Cut(0, (Factor(2, 1), Factor(4, 2))),), ((0,), (1,)))
    repeated = Spec("S[0]", "[4]", "[0,1,0,1]").placement()
    for device, box in repeated.held((8,)).items():
        np.testing.assert_array_equal(box[0], fused.held((8,))[device][0])
    assert Spec.of(fused, 1) == Spec("S[0]", "[4]", "[0,1,0,1]")
    assert with_one_block(repeated, (8,)) == Placement(
        (Cut(0, (Factor(2, 1), Factor(None, 2))),), ((0,), (1,))
    )


def test_two_cut_factors_of_a_dim_are_a_mesh_of_the_finest_parts() -> None:
    both = Placement((Cut(0, (Factor(4, 2), Factor(2, 2))),), ((0,), (1,), (2,), (3,)))
    spec = Spec.of(both, 1)
    assert spec.mesh_elements == "[0,1,0,1,2,3,2,3]"
    for device, box in spec.placement().held((8,)).items():
        np.testing.assert_array_equal(box[0], both.held((8,))[device][0])


def test_every_even_spec_has_a_form_with_one_block_to_a_device() -> None:
    for spec in filter(is_rectangle, CASES):
        one = with_one_block(spec.placement(), SIZES[: spec.rank])
        if one is None:  # parts that no factor of equal strides can say
            assert spec.mesh_elements in ("[0, 1, 1, 0]",)
            continue
        assert all(len(one.blocks(device)) == 1 for device in one.members)
        for device, box in one.held(SIZES[: spec.rank]).items():
            wanted = spec.placement().held(SIZES[: spec.rank])[device]
            assert all(map(np.array_equal, box, wanted))


@pytest.mark.parametrize(
    ("text", "shape", "mesh", "words"),
    [
        ("RQ", "[2]", "[0,1]", "spec such as"),
        ("S[1]", "[2]", "[0,1]", "axes below 1"),
        ("S[0]S[0]", "[2]", "[0,1]", "once"),
        ("S[0]", "[3]", "[0,1]", "as many devices"),
        ("S[0]", "[0]", "[]", "as many devices"),
        ("S[0]", "[2]", "[0,-1]", "at least 0"),
        ("S[0]", "2", "[0,1]", "numbers such as"),
    ],
)
def test_specs_that_are_none(text: str, shape: str, mesh: str, words: str) -> None:
    with pytest.raises(PlacementError, match=words):
        Spec(text, shape, mesh).placement()


@pytest.mark.parametrize(
    ("cuts", "devices", "words"),
    [
        ((cut(0, 2), cut(0, 2)), ((0,),) * 4, "once among the cuts"),
        ((cut(0, 0),), (), "at least 1 shard"),
        ((cut(0, 2),), ((0,),), "each of 2 blocks"),
        ((), ((),), "different devices"),
        ((), ((0, 0),), "different devices"),
        ((Cut(0, (Factor(0, 1), Factor(None, 1))),), ((0,),), "of at least 1"),
    ],
)
def test_placements_that_are_none(
    cuts: tuple[Cut, ...], devices: tuple[tuple[int, ...], ...], words: str
) -> None:
    with pytest.raises(PlacementError, match=words):
        Placement(cuts, devices)


def test_factors_must_make_their_dim() -> None:
    placement = Placement((Cut(0, (Factor(3, 1), Factor(2, 2))),), ((0,), (1,)))
    with pytest.raises(PlacementError, match="size 8 of dim 0"):
        placement.held((8,))


@pytest.mark.parametrize("module", [placement, ort_specs])
def test_examples_hold(module: object) -> None:
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)  # type: ignore[arg-type]
