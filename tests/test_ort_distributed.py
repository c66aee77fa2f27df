"""onnxruntime's Distributed operators, at its own cases and at those that it refuses."""


import pytest
from ort_distributed_cases import ORT, Case

from rankwise.collectives import local

GRID = ((0, 1), (2, 3))


def check(case: Case) -> None:
    local.run(case.ranks, case.check)


def test_there_are_as_many_as_there() -> None:
    assert len(ORT) - 4 == 43  # the two tests of reductions are of three operators each


@pytest.mark.parametrize("name", ORT)
def test_cases_of_onnxruntime(name: str) -> None:
    check(ORT[name])
