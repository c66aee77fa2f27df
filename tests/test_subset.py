"""Some ranks of a transport as a transport: numbers, messages and counts."""

from __future__ import annotations

import numpy as np

from rankwise.collectives import Communicator, local
from rankwise.collectives.subset import Subset


def test_ranks_have_numbers_of_their_own() -> None:
    def two_of_four(comm: Communicator) -> None:
        if comm.rank not in (3, 1):
            return
        whole = comm._transport
        pair = Communicator(Subset(whole, (3, 1)))
        assert (pair.rank, pair.size) == ({3: 0, 1: 1}[comm.rank], 2)
        assert pair.node_ranks == (0, 1)
        before = whole.bytes_sent
        got = pair.allgather(np.full(5, comm.rank, np.int8), counts=(5, 5))
        assert got.tolist() == [3] * 5 + [1] * 5
        assert whole.bytes_sent - before == 5 and pair.bytes_sent == whole.bytes_sent
        alone = pair.group([1])
        assert (alone is None) == (comm.rank == 3)

    local.run(4, two_of_four)
