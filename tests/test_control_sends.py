"""Messages between bodies of control flow: they do not block, nor change while under way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sessions import run
from written import model

from rankwise.collectives import Communicator
from rankwise.runtime.messages import Outbox

Array = np.ndarray[Any, np.dtype[Any]]


def test_one_rank_alone_may_send_in_a_branch_and_another_receive() -> None:
    body = """
        r = rankwise.Rank() zero = Sub(r, r) one = Div(two, two) is_first = Equal(r, zero)
        y = If (is_first) <
            then_branch = t () => (float[n] p) { t = rankwise.Send(x, one) p = Mul(x, scale) },
            else_branch = e () => (float[n] q) { q = rankwise.Recv<dtype=1>(zero) }>
        z = rankwise.AllReduce(y)
    """
    made = model("(float[n] x) => (float[n] y, float[n] z)", body)
    x = np.arange(4, dtype=np.float32)
    first, second = run(2, made, {"x": x})
    np.testing.assert_array_equal(first, [x / 2, 1.5 * x])
    np.testing.assert_array_equal(second, [x, 1.5 * x])


def test_a_ring_of_sends_in_a_loop_does_not_block() -> None:
    body = """
        r = rankwise.Rank() n = rankwise.Size() one = Div(two, two)
        right0 = Add(r, one) right = Mod(right0, n) left0 = Sub(r, one) left = Mod(left0, n)
        y = Loop (n, , x) <body = b (int64 i, bool go, float[n] v) => (bool go_on, float[n] w) {
            go_on = Identity(go) t = rankwise.Send(v, right)
            got = rankwise.Recv<dtype=1>(left) w = Add(got, x) }>
    """
    made = model("(float[n] x) => (float[n] y)", body)
    given = [np.full(20_000, rank, np.float32) for rank in range(3)]
    for rank, (y,) in enumerate(run(3, made, lambda rank: {"x": given[rank]})):
        np.testing.assert_array_equal(y, sum(given) + given[rank])


@pytest.fixture
def _late_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let messages leave at the end of a run, as long ones may: threads copy them at once."""
    send, complete, waiting = Outbox.send, Outbox.complete, dict[Outbox, list[Any]]()

    def late(self: Outbox, comm: Communicator, array: Array, dest: int, tag: int) -> None:
        self._held[id(array)] += 1
        waiting.setdefault(self, []).append((comm, array, dest, tag))

    def complete_late(self: Outbox) -> None:
        for sent in waiting.pop(self, []):
            send(self, *sent)
        complete(self)

    monkeypatch.setattr(Outbox, "send", late)
    monkeypatch.setattr(Outbox, "complete", complete_late)


@pytest.mark.usefixtures("_late_sends")
def test_what_a_body_sends_is_not_overwritten_after_it() -> None:
    body = """
        r = rankwise.Rank() zero = Sub(r, r) one = Div(two, two) is_first = Equal(r, zero)
        a = Neg(x)
        token = If (is_first) <
            then_branch = t () => (bool p) { p = rankwise.Send(a, one) },
            else_branch = e () => (bool q) { q = Identity(is_first) }>
        s = rankwise.AllReduce(a)
        y = If (is_first) <
            then_branch = t2 () => (float[n] p2) { p2 = Neg(s) },
            else_branch = e2 () => (float[n] q2) { q2 = rankwise.Recv<dtype=1>(zero) }>
    """
    made = model("(float[n] x) => (float[n] y)", body)
    found = run(2, made, lambda rank: {"x": np.full(5, rank + 1, np.float32)})
    np.testing.assert_array_equal(found, [[[3] * 5], [[-1] * 5]])


@pytest.mark.usefixtures("_late_sends")
def test_elements_that_a_scan_sends_are_not_overwritten_after_it() -> None:
    body = """
        r = rankwise.Rank() zero = Sub(r, r) one = Div(two, two) is_first = Equal(r, zero)
        a = Neg(x)
        token = If (is_first) <
            then_branch = t () => (bool[k] p) {
                p = Scan <num_scan_inputs = 1, body = b (float[n] e) => (bool o) {
                    o = rankwise.Send(e, one) }> (a) },
            else_branch = e () => (bool[k] q) { q = Identity(is_first) }>
        s = rankwise.AllReduce(a)
        y = If (is_first) <
            then_branch = t2 () => (float[k,n] p2) { p2 = Neg(s) },
            else_branch = e2 () => (float[k,n] q2) {
                u = rankwise.Recv<dtype=1>(zero) v = rankwise.Recv<dtype=1>(zero)
                q2 = Concat<axis=0>(u, v) }>
    """
    made = model("(float[k,n] x) => (float[k,n] y)", body)
    first, second = run(2, made, lambda rank: {"x": np.full((2, 5), rank + 1, np.float32)})
    np.testing.assert_array_equal(first[0], [[3] * 5] * 2)
    np.testing.assert_array_equal(second[0], [-1] * 10)
