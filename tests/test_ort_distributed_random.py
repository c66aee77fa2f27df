"""onnxruntime's Distributed operators on specs drawn at random, against numpy."""

import numpy as np
import pytest
from ort_distributed_cases import Case, Lies, specs

from rankwise.collectives import local

GRID = ((0, 1), (2, 3))
MESHES = [GRID, ((3, 1), (0, 2)), (0, 1, 2, 3), (0, 2), (0, 1) * 2, ((0, 1), (0, 1)), (2, 0, 1, 3)]


def lies(rng: np.random.Generator, shape: tuple[int, ...]) -> Lies:
    """A spec and a mesh that divide a tensor."""
    mesh = MESHES[rng.integers(len(MESHES))]
    fitting = [text for text in specs(len(shape), np.ndim(mesh)) if divides(text, mesh, shape)]
    return Lies(str(rng.choice(fitting)) if shape else "", mesh)


def divides(text: str, mesh: object, shape: tuple[int, ...]) -> bool:
    parts = [
        np.shape(mesh)[int(token[2:-1])] if token != "R" else 1 for token in Lies(text).tokens
    ]
    return all(size % count == 0 for size, count in zip(shape, parts, strict=True))


def drawn_case(rng: np.random.Generator) -> Case:
    """A node on any specs that divide its tensors."""
    op = str(rng.choice([*SIZES, *REDUCED]))
    operands, attributes = [(8, 4, 12), [[0], [1], [2], [0, 2]][rng.integers(4)]], {}
    if op in SIZES:
        operands = [*SIZES[op][rng.integers(len(SIZES[op]))]]
    else:
        attributes = {"keepdims": int(rng.integers(2))}
    made = Case(op, operands, [], Lies(""), attributes).whole().shape
    given = [lies(rng, x) if isinstance(x, tuple) else Lies("R") for x in operands]
    fixed = op != "MatMul" and bool(rng.integers(2))
    return Case(op, operands, given, lies(rng, made), attributes, fixed=fixed, ranks=4)


REDUCED = ("ReduceSum", "ReduceMax", "ReduceMean")
SIZES: dict[str, list[tuple[object, ...]]] = {
    "MatMul": [((4, 8, 4), (4, 4, 12)), ((8, 4), (4, 12)), ((4, 8, 4), (4, 8))],
    "Slice": [((8, 4, 12), [4, 0], [8, 8], [0, 2]), ((8, 4, 12), [1], [3], [1])],
    "Reshape": [((8, 4, 12), [32, 12]), ((8, 48), [8, 4, 12]), ((16, 24), [4, 8, 12])],
    "Expand": [((8, 1, 4), [8, 12, 4]), ((1, 4, 8), [4, 4, 8]), ((4, 8), [4, 4, 8])],
    "Squeeze": [((8, 1, 12), [1]), ((8, 4, 1), [2])],
    "Unsqueeze": [((8, 12), [0]), ((8, 12), [2])],
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_specs_drawn_at_random_on_four_ranks(seed: int) -> None:
    """60 nodes of a seed, over 1-D, 2-D and repeated meshes."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        case = drawn_case(rng)
        local.run(case.ranks, case.check)
