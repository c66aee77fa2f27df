"""Schedules as values."""

import pytest

from rankwise.collectives.algorithms.recursive import active_number, active_rank
from rankwise.collectives.schedule import Recv, Send, rounds, schedule
from rankwise.collectives.specs import SPECS
from rankwise.collectives.table import TABLE, lookup

NAMED = [(collective, name) for collective, names in TABLE.items() for name in names]


@pytest.mark.parametrize(("collective", "name"), NAMED)
def test_every_rank_has_as_many_rounds(collective: str, name: str) -> None:
    algorithm = lookup(collective, name).algorithm
    for size in range(1, 20):
        roots = range(size) if SPECS[collective].rooted else [None]
        for root in roots:
            assert len({len(steps) for steps in schedule(algorithm, size, root)}) == 1


@pytest.mark.parametrize(("collective", "name"), NAMED)
def test_a_single_rank_has_nobody_to_talk_to(collective: str, name: str) -> None:
    root = 0 if SPECS[collective].rooted else None
    steps = [s for k in rounds(lookup(collective, name).algorithm, 0, 1, root) for s in k]
    assert not any(isinstance(step, Send | Recv) for step in steps)


def test_a_schedule_is_made_once() -> None:
    algorithm = lookup("allreduce", "ring").algorithm
    assert rounds(algorithm, 2, 4) is rounds(algorithm, 2, 4)


def test_the_numbers_of_those_that_exchange_have_no_gap() -> None:
    for size in range(1, 65):
        folded = size - (1 << (size.bit_length() - 1))
        numbers = [
            n for n in (active_number(rank, folded) for rank in range(size)) if n is not None
        ]
        assert numbers == list(range(size - folded))
        assert [active_number(active_rank(n, folded), folded) for n in numbers] == numbers


def test_an_unknown_algorithm_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"ring, .*tree, .*single_copy, auto, mpi.*'rong'"):
        lookup("allreduce", "rong")
    with pytest.raises(ValueError, match=r"allreduce, reduce_scatter.*'allreduse'"):
        lookup("allreduse", "ring")
