"""The ring of the working group's slide as it is printed, and ours beside it.

def RingReduceSum (rank, total_ranks, input):
    succ = (rank + 1) % total_ranks
    pred = (rank - 1) % total_ranks
    next = input[rank]
    for i in range(total ranks):
        Send(next, to = succ)
        next received = Receive(from = pred)
        next local = input [(rank-i-1) % total ranks]
        next = Add (next received, next local)
    for i in range(total ranks):
        output[(rank - i) % total_ranks] = next
        Send(next, to = succ)
        next = Receive(from = pred)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import rankwise
from rankwise.collectives import CollectiveTimeout, Communicator, local
from rankwise.models.functions.ring import ring_function
from rankwise.runtime import actions, messages
from rankwise.runtime.execute import NodeError

Array = np.ndarray[Any, np.dtype[Any]]

HEADER = """<ir_version: 10,
    opset_import: ["" : 20, "rankwise" : 1, "slide" : 1, "rankwise.functions" : 1]>"""

AS_PRINTED = """
<domain: "slide", opset_import: ["" : 20, "rankwise" : 1]>
RingReduceSum (rank, total_ranks, input) => (output)
{
    one = Constant <value_int = 1> ()
    above = Add (rank, one)
    succ = Mod (above, total_ranks)
    below = Sub (rank, one)
    pred = Mod (below, total_ranks)
    first = Gather (input, rank)
    reduced = Loop (total_ranks, , first) <body = reduce (int64 i, bool go, next) => (on, sum)
    {
        on = Identity (go)
        sent = rankwise.Send (next, succ)
        next_received = rankwise.Recv <dtype = 1> (pred)
        back = Sub (rank, i)
        back_one = Sub (back, one)
        index = Mod (back_one, total_ranks)
        next_local = Gather (input, index)
        sum = Add (next_received, next_local)
    }>
    last, output = Loop (total_ranks, , reduced, input) <
        body = gather (int64 i, bool go, next, blocks) => (on, received, filled)
    {
        on = Identity (go)
        back = Sub (rank, i)
        index = Mod (back, total_ranks)
        axis = Constant <value_ints = [0]> ()
        where = Unsqueeze (index, axis)
        row = Unsqueeze (next, axis)
        filled = ScatterElements (blocks, where, row)
        sent = rankwise.Send (next, succ)
        received = rankwise.Recv <dtype = 1> (pred)
    }>
}
"""


def printed() -> onnx.ModelProto:
    body = "r = rankwise.Rank() n = rankwise.Size() y = slide.RingReduceSum (r, n, x)"
    made = parser.parse_model(f"{HEADER} g (float[n] x) => (float[n] y) {{ {body} }}")
    made.functions.append(parser.parse_function(AS_PRINTED))
    return made


def ours() -> onnx.ModelProto:
    body = """
        r = rankwise.Rank() n = rankwise.Size()
        y = rankwise.functions.RingAllReduceSum <dtype = 1> (r, n, x)
    """
    made = parser.parse_model(f"{HEADER} g (float[n] x) => (float[n] y) {{ {body} }}")
    made.functions.append(ring_function("sum", 20))
    return made


def operand(rank: int, size: int) -> Array:
    """Rank r adds 10 to the power of r to every block: the digits of a sum count who is in it."""
    return np.full(size, 10.0**rank, np.float32)


def run(size: int, made: onnx.ModelProto, timeout: float = 60) -> list[Array]:
    def on_rank(comm: Communicator) -> Array:
        source = made.SerializeToString()
        with rankwise.InferenceSession(source, comm=comm, functions="literal") as session:
            return session.run(None, {"x": operand(comm.rank, size)})[0]

    return local.run(size, on_rank, timeout=timeout)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_ring_as_it_is_printed_counts_a_summand_twice(size: int) -> None:
    digits = {f"{int(value):0{size}d}" for y in run(size, printed()) for value in y}
    assert digits == {"1" * k + "2" + "1" * (size - 1 - k) for k in range(size)}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_our_ring_counts_each_once(size: int) -> None:
    for y in run(size, ours()):
        np.testing.assert_array_equal(y, np.full(size, float("1" * size)))


@pytest.fixture
def sends_that_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send waits until its message has been received, as rendezvous does."""
    send, receive = messages.Outbox.send, messages.receive

    def blocking(self: Any, comm: Communicator, array: Array, dest: int, tag: int) -> None:
        send(self, comm, array, dest, tag)
        comm.recv(np.empty(1), dest, tag + 1)

    def telling(comm: Communicator, source: int, tag: int, *others: Any) -> Array:
        came: Array = receive(comm, source, tag, *others)
        comm.send(np.ones(1), source, tag + 1)
        return came

    monkeypatch.setattr(messages.Outbox, "send", blocking)
    monkeypatch.setattr(actions, "receive", telling)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.usefixtures("sends_that_block")
def test_the_ring_as_it_is_printed_stands_still_where_sends_block(size: int) -> None:
    with pytest.raises((CollectiveTimeout, NodeError), match="has waited for rank"):
        run(size, printed(), timeout=1)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.usefixtures("sends_that_block")
def test_our_ring_goes_on_where_sends_block(size: int) -> None:
    for y in run(size, ours()):
        np.testing.assert_array_equal(y, np.full(size, float("1" * size)))
