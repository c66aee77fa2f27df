"""The simulator finds what is wrong with a schedule, and says where."""

from collections.abc import Iterator

import pytest

from rankwise.collectives import ScheduleError
from rankwise.collectives.algorithms.ring import ring_allgather, ring_allreduce
from rankwise.collectives.algorithms.tree import tree_reduce
from rankwise.collectives.schedule import Algorithm, Copy, Load, Recv, Round, Send, Step, rounds
from rankwise.collectives.simulate import prove


def always(*steps: Round) -> Algorithm:
    """The same rounds on both of two ranks, with -1 for the other one."""

    def algorithm(rank: int, size: int) -> Iterator[Round]:
        for mine in steps:
            yield tuple(
                step if isinstance(step, Copy) else step._replace(peer=1 - rank) for step in mine
            )

    return algorithm


BOTH = (0, 1)
BUGS = {
    "which sends nothing": always((Recv(-1, BOTH, "left"),)),
    "which expects nothing": always((Send(-1, BOTH),)),
    r"expects blocks \(0, 1\), but rank 1 sends \(0,\)": always(
        (Send(-1, (0,)), Recv(-1, BOTH, "left"))
    ),
    "a second time": always(*[(Send(-1, BOTH), Recv(-1, BOTH, "left"))] * 2),
    r"reduces block 0 of rank 1 into block 1, which holds block 1 of rank 0": always(
        (Send(-1, (0,)), Recv(-1, (1,), "left"))
    ),
    "must end as block 0 of ranks 0, 1, got block 0 of rank 0": always(()),
    "overwrites blocks .0. in the round in which they leave": always(
        (Send(-1, (0,)), Recv(-1, (0,)))
    ),
    "writes a block twice": always((Copy((0,), (1,)), Copy((0,), (1,)))),
}


@pytest.mark.parametrize("sentence", BUGS)
def test_a_planted_bug_is_named(sentence: str) -> None:
    with pytest.raises(ScheduleError, match=sentence):
        prove("allreduce", BUGS[sentence], 2)


def test_a_load_reads_what_was_there_before_the_round() -> None:
    def swap(rank: int, size: int) -> Iterator[Round]:
        yield Load(rank, (rank,), into=(2,)), Load(1 - rank, (1 - rank,))
        yield (Copy((2,), (rank,)),)

    prove("allgather", swap, 2)


@pytest.mark.parametrize(
    "step", [Copy((0,), (1,)), Recv(-1, (1,)), Recv(-1, (1,), "left"), Load(0, (0,), None, (1,))]
)
def test_a_block_must_not_be_written_while_another_rank_loads_it(step: Step) -> None:
    def algorithm(rank: int, size: int) -> Iterator[Round]:
        if rank == 0:
            yield (step._replace(peer=1) if isinstance(step, Recv) else step,)
        else:
            sends = (Send(0, (0,)),) if isinstance(step, Recv) else ()
            yield (*sends, Load(0, (1,), "left"))

    with pytest.raises(
        ScheduleError, match=r"rank 0: writes block 1 in the round in which rank 1 loads it"
    ):
        prove("allreduce", algorithm, 2)


def test_a_block_that_holds_nothing_cannot_be_loaded() -> None:
    with pytest.raises(ScheduleError, match="rank 1: lends rank 0 block 4, which holds nothing"):
        prove("allreduce", always((Load(-1, (4,), into=(2,)),)), 2)


def test_segments_are_proved_one_by_one() -> None:
    def first_only(rank: int, size: int, *, segments: int) -> Iterator[Round]:
        for steps in rounds(ring_allgather, rank, size):
            yield tuple(s._replace(blocks=(s.blocks[0] * segments,)) for s in steps)

    prove("allgather", first_only, 3, segments=1)
    with pytest.raises(ScheduleError, match="block 3 must end as block 3 of rank 1, got nothing"):
        prove("allgather", first_only, 3, segments=2)


def test_a_copy_of_the_wrong_length_is_named() -> None:
    with pytest.raises(ScheduleError, match=r"expects blocks \(2, 3\), but 1 blocks come"):
        prove("alltoall", always((Copy((0,), (2, 3)),)), 2)


def test_a_block_that_holds_nothing_cannot_be_sent_nor_reduced_into() -> None:
    with pytest.raises(ScheduleError, match="sends to rank 1 block 1, which holds nothing yet"):
        prove("allgather", always((Send(-1, (1,)), Recv(-1, (0,)))), 2)

    def into_nothing(rank: int, size: int) -> Iterator[Round]:
        yield Send(1 - rank, (rank,)), Recv(1 - rank, (1 - rank,), "left")

    with pytest.raises(ScheduleError, match="reduces into block 1, which holds nothing yet"):
        prove("allgather", into_nothing, 2)


def test_ranks_that_disagree_on_the_number_of_rounds_are_named() -> None:
    def uneven(rank: int, size: int) -> Iterator[Round]:
        yield from [()] * rank

    with pytest.raises(ScheduleError, match=r"as many rounds on every rank, got \[0, 1, 2\]"):
        prove("barrier", uneven, 3)


def test_an_order_that_is_not_that_of_ranks_counts_only_where_it_is_demanded() -> None:
    prove("allreduce", ring_allreduce, 4)
    with pytest.raises(ScheduleError, match="got block 1 of ranks 0, 2, 3, 1"):
        prove("allreduce", ring_allreduce, 4, ordered=True)
    prove("reduce", tree_reduce, 4, 0, ordered=True)
    with pytest.raises(ScheduleError, match="must end as"):
        prove("reduce", tree_reduce, 4, 1, ordered=True)


def test_the_error_shows_the_failing_cell_in_the_grid() -> None:
    def broken(rank: int, size: int) -> Iterator[Round]:
        steps = list(rounds(ring_allgather, rank, size))
        if rank == 2:
            steps[1] = (Send(3, (3,)), Recv(1, (0,)))
        yield from steps

    with pytest.raises(ScheduleError) as caught:
        prove("allgather", broken, 4)
    lines = str(caught.value).splitlines()
    assert lines[0] == "round 1, rank 2: sends to rank 3 block 3, which holds nothing yet"
    marked = [line for line in lines if "!!" in line]
    assert len(marked) == 1 and marked[0].startswith("1 ") and "!!>3:3 <1:0" in marked[0]


def test_a_missing_allgather_round_is_found_at_every_size() -> None:
    def short(rank: int, size: int) -> Iterator[Round]:
        yield from rounds(ring_allgather, rank, size)[:-1]

    for size in range(2, 20):
        with pytest.raises(ScheduleError, match="got nothing"):
            prove("allgather", short, size)
