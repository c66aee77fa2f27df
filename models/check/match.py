"""All ranks' communications, matched as the run would match them.

A Send goes with the oldest Recv of its peer that has the same group and tag; the k-th collective
of a group on one rank with the k-th on the others. Peers are named and there is no wildcard, so
what matches what does not depend on who is faster: one run in any order shows what every run does
(Siegel and Avrunin, Analysis of MPI Programs, 2004), and freedom from deadlock where sends block
is freedom from it whatever is buffered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .calls import compared, given
from .events import Event, Events, Shared, Value
from .findings import Finding
from .order import Calls
from .stuck import explained, left_over
from .values import UNKNOWN, Tensor, may_equal

Step = tuple[int, Value | None]
"""A rank that goes on, and what its communication gave; None at its start."""


class Match:
    """The ranks' programs, run side by side."""

    def __init__(self, programs: Sequence[Events], shared: Shared, *, rendezvous: bool) -> None:
        self.shared, self.rendezvous = shared, rendezvous
        self.programs = programs
        self.waiting: dict[int, Event] = {}
        """what each rank that has not ended waits in"""
        self.mail: dict[tuple[object, ...], deque[Event]] = {}
        """what has been sent and not received"""
        self.calls = Calls()
        self.communications = self.open = 0

    def run(self) -> None:
        """Run all of them as far as they come, and note what is wrong. Raises Exhausted."""
        ready: deque[Step] = deque((rank, None) for rank in range(len(self.programs)))
        while ready:
            ready.extend(self._advance(*ready.popleft()))
        self._note(self.calls.findings())
        self._note(explained(self.waiting, self.mail, self.calls))
        self._note(left_over(self.waiting, self.mail))

    def _note(self, findings: Iterable[Finding]) -> None:
        self.shared.findings.extend(findings)

    def _advance(self, rank: int, answer: Value | None) -> list[Step]:
        """Let a rank come to its next communication; return who goes on, and with what."""
        self.waiting.pop(rank, None)
        program = self.programs[rank]
        try:
            event = next(program) if answer is None else program.send(answer)
        except StopIteration:
            return []
        self.communications += 1
        self.open += event.is_open
        self.waiting[rank] = event
        if event.op == "Send":
            return self._send(event)
        if event.op == "Recv":
            return self._receive(event)
        return self._collective(event)

    def _send(self, event: Event) -> list[Step]:
        if event.peer is None:
            # It may go to anyone, so that nothing can be said of this rank from here on.
            return []
        self.mail.setdefault(event.key, deque()).append(event)
        there = self.waiting.get(event.peer)
        done: list[Step] = [] if self.rendezvous else [(event.rank, self._nothing())]
        if there is not None and there.op == "Recv" and there.key == event.key:
            done += self._receive(there)
        return done

    def _receive(self, event: Event) -> list[Step]:
        box = self.mail.get(event.key)
        if event.peer is None or not box:
            return []
        sent = box.popleft()
        # At once: whoever sends the same again must not find it waiting.
        del self.waiting[event.rank]
        done: list[Step] = [(event.rank, self._received(event, sent))]
        return [*done, (sent.rank, self._nothing())] if self.rendezvous else done

    def _received(self, event: Event, sent: Event) -> Value:
        dtype, shape = (event.step.attributes.get(name) for name in ("dtype", "shape"))
        wanted = Tensor(dtype, None if shape is None else tuple(shape))
        value = sent.value or self._nothing()
        came = value.tensor
        is_alike = None in (dtype, came.dtype) or dtype == came.dtype
        if is_alike and may_equal(wanted.shape, came.shape):
            return Value(came.refined(wanted), value.number)
        text = f"expected {wanted}, but {sent} gives {came._replace(content=None)}"
        self._note([event.finding("mismatch", text)])
        return self.shared.value(wanted)

    def _collective(self, event: Event) -> list[Step]:
        arrived = self.calls.arrive(event)
        if arrived is None:
            return []
        self.calls.differ(arrived[0].group, compared(arrived))
        results = given(arrived, self.shared)
        return [(call.rank, made) for call, made in zip(arrived, results, strict=True)]

    def _nothing(self) -> Value:
        return self.shared.value(UNKNOWN)
