"""The cost model: lower bounds, against the algorithms and against their closed forms."""

from __future__ import annotations

import math

import pytest

from rankwise.collectives.cost import lower_bound, seconds
from rankwise.collectives.schedule import Copy, Load, Send, schedule
from rankwise.collectives.specs import SPECS
from rankwise.collectives.table import TABLE

MODEL = {"alpha": 1e-5, "beta": 1e-9, "gamma": 3e-10}
EVERY = [(collective, name) for collective, entries in TABLE.items() for name in entries]


def options(collective: str, name: str, size: int) -> dict[str, object]:
    """What an algorithm takes, as one node with one segment."""
    given = {"segments": 1, "nodes": (0,) * size}
    return {option: given[option] for option in TABLE[collective][name].takes}


def has_one_port(collective: str, name: str, size: int) -> bool:
    """Whether no rank sends or receives two messages in a round, or lends to two others."""
    root = 0 if SPECS[collective].rooted else None
    algorithm = TABLE[collective][name].algorithm
    ranks = schedule(algorithm, size, root, **options(collective, name, size))
    for together in zip(*ranks, strict=True):
        messages = [
            (rank, step) for rank, steps in enumerate(together) for step in steps
            if not isinstance(step, Copy) and step.peer != rank
        ]  # fmt: skip
        sent = [rank for rank, step in messages if isinstance(step, Send)]
        sent += [step.peer for _, step in messages if isinstance(step, Load)]
        came = [rank for rank, step in messages if not isinstance(step, Send)]
        if len(set(sent)) < len(sent) or len(set(came)) < len(came):
            return False
    return True


@pytest.mark.parametrize(("collective", "name"), EVERY)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 13, 16])
def test_no_algorithm_comes_below_the_lower_bound(collective: str, name: str, size: int) -> None:
    root = 0 if SPECS[collective].rooted else None
    # With several messages in a round, rounds can be fewer; bytes cannot.
    model = MODEL if has_one_port(collective, name, size) else MODEL | {"alpha": 0.0}
    nbytes = 0 if collective == "barrier" else size << 20
    takes = options(collective, name, size)
    algorithm = TABLE[collective][name].algorithm
    least = lower_bound(collective, size, nbytes, **model)
    assert seconds(algorithm, size, nbytes, root=root, **model, **takes) >= least * (1 - 1e-12)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 16])
def test_a_ring_moves_and_reduces_no_byte_more_than_must_be(size: int) -> None:
    model = MODEL | {"alpha": 0.0}
    ring = TABLE["allreduce"]["ring"].algorithm
    assert seconds(ring, size, size << 20, **model) == pytest.approx(
        lower_bound("allreduce", size, size << 20, **model)
    )


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_recursive_doubling_takes_no_round_more_than_must_be(size: int) -> None:
    model = {"alpha": 1.0, "beta": 0.0}
    doubling = TABLE["allreduce"]["recursive_doubling"].algorithm
    assert seconds(doubling, size, 1, **model) == lower_bound("allreduce", size, 1, **model)


def test_bounds_are_those_of_the_papers() -> None:
    alpha, beta, gamma = 7.0, 5.0, 3.0
    for p in (2, 3, 4, 5, 100):
        rounds, share, n = math.ceil(math.log2(p)) * alpha, (p - 1) / p, 1000
        expected = {
            "allreduce": rounds + 2 * share * n * beta + share * n * gamma,
            "reduce_scatter": rounds + share * n * beta + share * n * gamma,
            "reduce": rounds + n * beta + share * n * gamma,
            "broadcast": rounds + n * beta,
            "barrier": rounds,
            **dict.fromkeys(
                ("allgather", "gather", "scatter", "alltoall"), rounds + share * n * beta
            ),
        }
        for collective in TABLE:
            got = lower_bound(collective, p, n, alpha=alpha, beta=beta, gamma=gamma)
            assert got == pytest.approx(expected[collective]), collective


def test_one_rank_has_nothing_to_wait_for() -> None:
    assert all(lower_bound(collective, 1, 1000, **MODEL) == 0 for collective in TABLE)
