"""Calls under way: the i-forms of the communicator's calls return a Work.

One thread, started by the first of them, moves the calls of all communicators on, a step of each
in turn, so calls of several communicators are in flight at the same time; those of one follow one
another. It sleeps between steps, and lets others compute while it does. A rank that
waits for a Work moves its line on by itself. Below MPI_THREAD_MULTIPLE nothing else does: there
messages progress in test() and wait() only.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .transport import Transport
from .waiting import LONGEST_SLEEP_S, YIELD_S, Call, Silence, Wait, until

T = TypeVar("T")

SHORTEST_SLEEP_S = 20e-6

log = logging.getLogger("rankwise.collectives")


class Work(Generic[T]):
    """One call: under way, or done with a result or an error."""

    def __init__(self, line: Line, call: Call[T]) -> None:
        self._line = line
        self._call = call
        self._wait: Wait | None = None
        self._silence: Silence | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Work[T]], object]] = []
        self._done = False

    def __repr__(self) -> str:
        state = "under way" if not self._done else repr(self._error) if self._error else "done"
        return f"<Work: {state}>"

    def test(self) -> bool:
        """Whether it is done, with a result or an error; moves it on where it can."""
        if not self._done:
            self._line.step()
        return self._done

    def wait(self, timeout: float | None = None) -> T:
        """Return the result, or raise the error of the call.

        TimeoutError after so many seconds; the call goes on, and may be waited for again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._line.until_done(self, deadline)
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # is a T once done

    def exception(self) -> BaseException | None:
        """The error of a call that failed; None while it is under way, too."""
        return self._error

    def then(self, callback: Callable[[Work[T]], object]) -> None:
        """Call callback(work) once it is done, on the thread that finds it so, or now."""
        with self._line.lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        self._tell(callback)

    def _step(self) -> bool:
        """Go as far as possible without waiting; whether that was any distance."""
        try:
            if self._wait is not None:
                assert self._silence is not None
                try:
                    if not self._wait.ready():
                        if self._silence.lasts() > LONGEST_SLEEP_S:
                            self._wait.meanwhile()
                        return False
                except BaseException as error:
                    self._wait = self._call.throw(error)
                else:
                    self._wait = self._call.send(None)
            else:
                self._wait = self._call.send(None)
            self._silence = Silence(self._wait, self._line.transport.patience)
        except StopIteration as end:
            self._result, self._done = end.value, True
        except BaseException as error:
            self._error, self._done = error, True
        return True

    def _settle(self) -> None:
        """Tell those who asked."""
        for callback in self._callbacks:
            self._tell(callback)

    def _tell(self, callback: Callable[[Work[T]], object]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("a callback of %r failed", self)


class Line:
    """Calls that follow one another."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.works: deque[Work[Any]] = deque()
        self.lock = threading.RLock()

    def start(self, call: Call[T]) -> Work[T]:
        """Put a call at the end, and begin with it if it is the first.

        An error of the caller's that shows at once is raised here.
        """
        work = Work(self, call)
        with self.lock:
            self.works.append(work)
            if self.works[0] is work:
                self.step()
        if isinstance(work._error, ValueError | TypeError):
            raise work._error
        return work

    def serve(self) -> None:
        """Let the worker move the calls on, where it may."""
        if self.works and self.transport.is_threaded:
            WORKER.serve(self)

    def step(self) -> bool:
        """Move the first call on, and those that follow it; whether any has moved."""
        moved = False
        while True:
            with self.lock:
                if not self.works or not self.works[0]._step():
                    return moved
                moved = True
                if not self.works[0]._done:
                    continue
                work = self.works.popleft()
            work._settle()

    def until_done(self, work: Work[Any], deadline: float | None = None) -> None:
        """Move calls on until this one is done; TimeoutError at the deadline."""
        moved = time.monotonic()
        while not work._done:
            if self.step():
                moved = time.monotonic()
                continue
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError(f"expected {work!r} to be done in time")
            waited = now - moved
            self.transport.pause(0 if waited < YIELD_S else min(waited / 8, LONGEST_SLEEP_S))

    def drain(self) -> None:
        """Return when nothing is under way; errors stay with their Works."""
        while self.works:
            self.until_done(self.works[-1])


async def together(transport: Transport, calls: Sequence[Call[Any]]) -> None:
    """Run calls side by side to their ends; an error of one ends all of them."""
    if len(calls) == 1:
        await calls[0]
        return
    works = [Work(Line(transport), call) for call in calls]

    def moved() -> bool:
        steps = [work._step() for work in works if not work._done]
        return any(steps) or not steps

    def describe() -> str:
        return "; ".join(work._wait.describe() for work in works if work._wait and not work._done)

    try:
        while not all(work._done for work in works):
            await until(Wait(moved, describe))
            for work in works:
                if work._error is not None:
                    raise work._error
    except BaseException as error:
        for work in works:
            if not work._done:
                with contextlib.suppress(BaseException):
                    work._call.throw(error)
        raise


class Worker:
    """The thread that moves lines on."""

    def __init__(self) -> None:
        self.lines: set[Line] = set()
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self.is_over = False

    def serve(self, line: Line) -> None:
        """Move this line on until it is empty."""
        with self.changed:
            self.lines.add(line)
            if self.thread is None:
                self.thread = threading.Thread(target=self.run, name="rankwise", daemon=True)
                self.thread.start()
                atexit.register(self.end)  # before MPI ends
            self.changed.notify()

    def end(self) -> None:
        with self.changed:
            self.is_over = True
            self.changed.notify()
        if self.thread is not None:
            self.thread.join()

    def run(self) -> None:
        sleep = SHORTEST_SLEEP_S
        while True:
            with self.changed:
                self.lines = {line for line in self.lines if line.works}
                while not self.lines and not self.is_over:
                    self.changed.wait()
                if self.is_over:
                    return
                lines = list(self.lines)
            moved = [line.step() for line in lines]
            if any(moved):
                sleep = SHORTEST_SLEEP_S
            else:
                time.sleep(sleep)
                sleep = min(2 * sleep, LONGEST_SLEEP_S)


WORKER = Worker()
