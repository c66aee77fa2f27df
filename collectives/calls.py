"""The two forms of a collective call: one that blocks, and one that returns a Work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from .engine import Engine
from .waiting import Call, finish
from .work import Work

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=Engine)


def blocking(method: Callable[Concatenate[E, P], Call[R]]) -> Callable[Concatenate[E, P], R]:
    """The call that returns when its part is done, after all that was begun before."""

    @functools.wraps(method)
    def call(self: E, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._line.works:
            self._line.drain()
        return finish(self._prepared(method(self, *args, **kwargs)), self._transport)

    return call


def started(call: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], Work[R]]:
    """The call that returns at once, with a Work."""
    method = inspect.unwrap(call)

    @functools.wraps(method)
    def begin(self: E, /, *args: P.args, **kwargs: P.kwargs) -> Work[R]:
        work: Work[R] = self._line.start(self._prepared(method(self, *args, **kwargs)))
        self._line.serve()
        return work

    name = method.__name__.removeprefix("_")
    begin.__name__ = f"i{name}"
    begin.__qualname__ = f"Communicator.{begin.__name__}"
    begin.__doc__ = (
        f"Begin {name} and return a Work.\n\n"
        "Its arrays belong to it until it is done. Calls of one communicator follow one another."
    )
    return begin
