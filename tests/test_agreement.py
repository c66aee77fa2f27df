"""Ranks agree on what they do together inside bodies, and errors name those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sessions import Feeds, run
from written import model

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.runtime.execute import NodeError

Array = np.ndarray[Any, np.dtype[Any]]

DISAGREEMENTS: dict[str, tuple[str, Callable[[int], Feeds], str]] = {
    "condition": (
        """y = If (c) <then_branch = t () => (float[n] p) { p = rankwise.AllReduce(x) },
                       else_branch = e () => (float[n] q) { q = Neg(x) }>""",
        lambda rank: {"c": np.array(rank == 1)},
        "If 'y' .*the same condition on all ranks.* ranks 0, 2 have false; rank 1 has true",
    ),
    "trip count": (
        """y = Loop (k, , x) <body = b (int64 i, bool go, float[n] v) => (
            bool go_on, float[n] s) { go_on = Identity(go) s = rankwise.AllReduce(v) }>""",
        lambda rank: {"k": np.array(2 + (rank == 2))},
        "Loop 'y' .*the same trip count on all ranks.* ranks 0, 1 have 2; rank 2 has 3",
    ),
    "condition of a loop": (
        """y = Loop (many, , x) <body = b (int64 i, bool go, float[n] v) => (
            bool go_on, float[n] s) { go_on = Less(i, k) s = rankwise.AllReduce(v) }>""",
        lambda rank: {"k": np.array(1 + rank)},
        "condition after iteration 1 .* rank 0 has false; ranks 1, 2 have true",
    ),
    "length": (
        """a, y = Scan <num_scan_inputs = 1, body = b (float v, float e) => (float v2, float s) {
            s = rankwise.AllReduce(e) v2 = Add(v, s) }> (scale, x)""",
        lambda rank: {"x": np.ones(3 + (rank == 1), np.float32)},
        "the same length to scan on all ranks.* ranks 0, 2 have 3; rank 1 has 4",
    ),
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_ranks_that_do_not_agree_are_named(name: str) -> None:
    body, feeds, message = DISAGREEMENTS[name]
    made = model("(float[n] x, bool c, int64 k) => (float[n] y)", body)
    common = {"x": np.ones(3, np.float32), "c": np.array(True), "k": np.array(1)}
    with pytest.raises(NodeError, match=message):
        run(3, made, lambda rank: {**common, **feeds(rank)})


IN_PAIRS = """
    y = If (c) <
        then_branch = t () => (float[n] p) {
            p = rankwise.AllReduce<groups=[0,1,2,3], group_size=2>(x) },
        else_branch = e () => (float[n] q) { q = Neg(x) }>
"""


def test_ranks_agree_group_by_group() -> None:
    made = model("(float[n] x, bool c) => (float[n] y)", IN_PAIRS)
    x = np.ones(3, np.float32)
    found = run(4, made, lambda rank: {"x": x, "c": np.array(rank < 2)})
    np.testing.assert_array_equal([y for (y,) in found], [2 * x, 2 * x, -x, -x])


def test_ranks_of_different_programs_compare_nothing() -> None:
    body = """
        y = If (c) <then_branch = t () => (float[n] p) { p = rankwise.AllReduce(x) },
                    else_branch = e () => (float[n] q) { q = Neg(x) }>
    """
    ends = "(float[n] x, bool c) => (float[n] y)"
    programs = [model(ends, body), model(ends, "y = rankwise.AllReduce(x)")]

    def on_rank(comm: Communicator) -> Array:
        source = programs[comm.rank].SerializeToString()
        with rankwise.InferenceSession(source, comm=comm) as session:
            return session.run(None, {"x": np.ones(3, np.float32), "c": np.array(True)})[0]

    np.testing.assert_array_equal(local.run(2, on_rank), np.full((2, 3), 2))


def test_ranks_of_one_program_agree_though_other_groups_run_another() -> None:
    ends = "(float[n] x, bool c) => (float[n] y)"
    other = model(ends, "y = rankwise.AllReduce<groups=[0,1,2,3], group_size=2>(x)")
    programs = [model(ends, IN_PAIRS)] * 2 + [other] * 2

    def on_rank(comm: Communicator) -> None:
        source = programs[comm.rank].SerializeToString()
        with rankwise.InferenceSession(source, comm=comm) as session:
            session.run(None, {"x": np.ones(3, np.float32), "c": np.array(comm.rank == 1)})

    with pytest.raises(NodeError, match="rank 0 has false; rank 1 has true"):
        local.run(4, on_rank, timeout=10)
