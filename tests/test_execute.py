"""Schedules laid out over buffers, and run between threads."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rankwise.collectives import local
from rankwise.collectives.blocks import even, offsets, segmented, split
from rankwise.collectives.communicator import Communicator
from rankwise.collectives.execute import Range, compiled, execute, runs
from rankwise.collectives.schedule import Copy, Recv, Round, Send
from rankwise.collectives.table import lookup
from rankwise.collectives.waiting import finish


@pytest.mark.parametrize("length", [0, 1, 5, 12, 100])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_split_is_that_of_array_split(length: int, parts: int) -> None:
    expected = [len(part) for part in np.array_split(np.empty(length), parts)]
    assert list(split(length, parts)) == expected
    assert even(length, parts) == (0, *np.cumsum(expected))


def test_blocks_that_follow_one_another_in_memory_are_one_range() -> None:
    where = offsets([2, 0, 3, 1])
    assert runs((0, 1, 2), where) == [Range(0, 5)]
    assert runs((2, 3, 0), where) == [Range(2, 6), Range(0, 2)]
    assert runs((0, 2), where) == [Range(0, 5)]  # the block between them is empty
    assert runs((1,), where) == [Range(0, 0)]


def test_a_program_is_compiled_once_and_a_tree_needs_no_scratch_to_broadcast() -> None:
    tree = lookup("broadcast", "tree").algorithm
    program = compiled(tree, 1, 4, 0, even(10, 4))
    assert program is compiled(tree, 1, 4, 0, even(10, 4))
    assert program.scratch == 0


def test_a_ring_needs_scratch_for_one_block() -> None:
    program = compiled(lookup("allreduce", "ring").algorithm, 0, 4, None, even(10, 4))
    assert program.scratch == 3 and len(program.stages) == 6


def test_nothing_is_sent_where_there_is_nothing_but_in_a_barrier() -> None:
    nothing = even(0, 4)
    assert compiled(lookup("allreduce", "ring").algorithm, 0, 4, None, nothing).stages == ()
    barrier = lookup("barrier", "dissemination").algorithm
    assert len(compiled(barrier, 0, 4, None, nothing, signals=True).stages) == 2


def gossip(rank: int, size: int) -> Iterator[Round]:
    """Two messages to one peer, out of order, one reduced from either side, and a copy."""
    peer = 1 - rank
    yield (
        Send(peer, (3, 0)),
        Send(peer, (1,)),
        Recv(peer, (3, 0), "right"),
        Recv(peer, (2,)),
        Copy((1,), (4,)),
    )


def test_messages_of_scattered_blocks_arrive_in_their_order() -> None:
    where = offsets([2, 3, 3, 1, 3])

    def work(comm: Communicator) -> np.ndarray:
        buffer = 10.0 ** (2 * comm.rank) * np.arange(12)
        program, transport = compiled(gossip, comm.rank, 2, None, where), comm._transport
        finish(execute(program, buffer, transport, np.subtract), transport)
        return buffer

    first, second = local.run(2, work)
    a, b = np.arange(12), 100 * np.arange(12)
    np.testing.assert_array_equal(first, [*(a - b)[:2], *a[2:5], *b[2:5], (a - b)[8], *a[2:5]])
    np.testing.assert_array_equal(second, [*(b - a)[:2], *b[2:5], *a[2:5], (b - a)[8], *b[2:5]])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ["segmented_ring", "hierarchical"])
@pytest.mark.parametrize("length", [3, 1000])
def test_options_reach_the_algorithm(name: str, size: int, length: int) -> None:
    entry = lookup("allreduce", name)
    options: dict[str, Any] = {"segments": 3}
    if name == "hierarchical":
        options["nodes"] = (4, 0, 4, 2, 0)[:size] if size < 8 else (0, 0, 0, 1, 1, 2, 2, 2)
    where = even(length, size)

    def work(comm: Communicator) -> np.ndarray:
        buffer = np.arange(length) * (comm.rank + 1)
        program = compiled(entry.algorithm, comm.rank, size, None, where, **options)
        finish(execute(program, buffer, comm._transport, np.add), comm._transport)
        return buffer

    for result in local.run(size, work):
        np.testing.assert_array_equal(result, np.arange(length) * size * (size + 1) // 2)


def test_spare_blocks_lie_in_scratch_memory_and_are_reduced_there() -> None:
    program = compiled(lookup("allreduce", "naive").algorithm, 1, 3, None, even(10, 3))
    assert program.scratch == 2 * 10  # the sums; a vector comes into them, and one beside them
    (first, second) = program.stages
    assert [move.dest for move in first.landings] == [Range(0, 10, scratch=True)] * 2
    assert [move.source for move in second.copies] == [Range(0, 10, scratch=True)]


def test_a_load_from_another_rank_is_no_message() -> None:
    with pytest.raises(ValueError, match="expected messages, got a load from the memory of 0"):
        compiled(lookup("allreduce", "one_shot").algorithm, 1, 2, None, even(4, 2))


def test_segments_are_an_even_split_of_every_block() -> None:
    assert segmented((0, 5, 5, 8), 2) == (0, 3, 5, 5, 5, 7, 8)


def test_a_thread_that_fails_frees_the_others_and_is_the_one_reported() -> None:
    def work(comm: Communicator) -> None:
        if comm.rank == 2:
            raise KeyError("mine")
        comm.barrier()

    with pytest.raises(KeyError, match="mine"):
        local.run(4, work)


def test_a_thread_that_is_missing_is_a_timeout() -> None:
    from rankwise.collectives import CollectiveTimeout

    with pytest.raises(CollectiveTimeout, match="rank 0 has waited for rank 1"):
        local.run(2, lambda comm: comm.barrier() if comm.rank == 0 else None, timeout=0.3)
