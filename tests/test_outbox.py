"""Sends of a run: begun at once, held while they are under way."""

import numpy as np

from rankwise.collectives import Communicator, local
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
