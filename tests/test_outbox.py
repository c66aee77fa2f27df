"""Sends of a run: begun at once, held while they are under way."""

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest

from rankwise.collectives import Communicator, Work, local
from rankwise.runtime.messages import Outbox, receive


def test_what_has_left_is_let_go_of_when_more_is_sent() -> None:
    arrays = [np.full(1000, k, np.float32) for k in range(20)]

    def work(comm: Communicator) -> int:
        outbox = Outbox()
        for array in arrays:
            outbox.send(comm, array, 1 - comm.rank, 3)
        for array in arrays:
            came = receive(comm, 1 - comm.rank, 3, np.dtype(np.float32), None)
            np.testing.assert_array_equal(came, array)
        outbox.send(comm, arrays[0], 1 - comm.rank, 4)
        held = sum(map(outbox.holds, arrays))
        assert outbox.holds(arrays[0])
        receive(comm, 1 - comm.rank, 4, np.dtype(np.float32), [1000])
        outbox.complete()
        assert not any(map(outbox.holds, arrays))
        return held

    assert local.run(2, work) == [1, 1]


def test_an_array_that_is_sent_twice_is_held_until_both_have_left() -> None:
    array = np.ones(3)

    def work(comm: Communicator) -> None:
        outbox = Outbox()
        for dest in (0, 1):
            outbox.send(comm, array, dest, 0)
        assert outbox.holds(array)
        for source in (0, 1):
            receive(comm, source, 0, array.dtype, None)
        outbox.complete()
        assert not outbox.holds(array)

    local.run(2, work)


def test_what_a_message_costs_does_not_grow_with_those_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = 0

    def traced(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return traced

    monkeypatch.setattr(Work, "test", lambda self: False)  # none has left before the end

    def work(comm: Communicator) -> list[float]:
        nonlocal lines
        each = list[float]()
        for count in (50, 500):
            outbox = Outbox()
            for k in range(count):
                outbox.send(comm, np.ones(1), 0, k)
            lines, before = 0, sys.gettrace()
            sys.settrace(traced)
            outbox.complete()
            sys.settrace(before)
            each.append(lines / count)
        return each

    ((few, many),) = local.run(1, work)
    assert many < 1.1 * few
