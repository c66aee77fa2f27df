"""How ranks share the cores of their node."""

import os
import threading

import pytest

from rankwise.collectives import Communicator, local
from rankwise.runtime.threads import fair_share


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([range(8)], [8]),
        ([range(8)] * 2, [4, 4]),
        ([range(8)] * 3, [2, 2, 2]),
        ([range(2)] * 4, [1, 1, 1, 1]),
        ([range(4), range(4, 8)], [4, 4]),
        ([range(8), range(4), range(4)], [5, 1, 1]),
    ],
)
def test_a_core_of_several_ranks_is_shared(
    monkeypatch: pytest.MonkeyPatch, allowed: list[range], expected: list[int]
) -> None:
    here = threading.local()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(here.cores))

    def on_rank(comm: Communicator) -> int:
        here.cores = allowed[comm.rank]
        return fair_share(comm)

    assert local.run(len(allowed), on_rank) == expected
