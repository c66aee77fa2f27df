"""Messages between the ranks of the pool: one after another, begun, in a batch, or both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from layouts import ORDINARY, Like, Place, filled, given, source
from rank_calls import Answer, Array, Begun, same, shares

from rankwise.collectives import Communicator, Work


class Sending(NamedTuple):
    """A message that a rank sends."""

    peer: int
    tag: int
    x: Array
    place: Place


class Receiving(NamedTuple):
    """A message that a rank receives, into an array, or as an example says if `into` is None."""

    peer: int
    tag: int
    out: Like
    into: Place | None


@dataclass(frozen=True)
class Exchange:
    """One rank's messages, in order.

    `how`: "send" blocks for each; "isend" begins all, and waits in this order or backwards;
    "batch" posts them together; "sendrecv" makes every two that follow one call.
    """

    how: str
    moves: tuple[Sending | Receiving, ...]
    backwards: bool = False

    def begin(self, comm: Communicator, blocks: bool) -> Begun:
        return BegunExchange(self, comm)


class BegunExchange:
    """Messages and their arrays, by move."""

    def __init__(self, exchange: Exchange, comm: Communicator) -> None:
        self.exchange, self.comm = exchange, comm
        self.errors: list[Exception] = []
        self.arrays = [self.array(move) for move in exchange.moves]
        self.results: dict[int, Any] = {}
        self.works: dict[int, Work[Any]] = {}
        self.came: list[Array] = []
        self.values: list[Array] = []
        match exchange.how:
            case "send":
                self.each(self.blocking)
            case "isend":
                for index, move in enumerate(exchange.moves):
                    method = comm.isend if isinstance(move, Sending) else comm.irecv
                    self.works[index] = method(self.arrays[index], move.peer, move.tag)
            case "batch":
                self.batched()
            case "sendrecv":
                self.each(self.both, 2)

    def array(self, move: Sending | Receiving) -> Any:
        """What is sent, or received into; a frozen example where a new array is to come."""
        if isinstance(move, Sending):
            return filled(source(self.comm, move.place), move.place.layout, move.x)
        if move.into is None:
            return filled(np.empty, "frozen", np.zeros(*move.out))
        return given(self.comm, None, ORDINARY, move.into, move.out)[1]

    def each(self, act: Callable[[int], Any], step: int = 1) -> None:
        """Go on after an error, as the others do."""
        for index in range(0, len(self.arrays), step):
            try:
                self.results[index + step - 1] = act(index)
            except Exception as error:
                self.errors.append(error)

    def blocking(self, index: int) -> Any:
        move = self.exchange.moves[index]
        method = self.comm.send if isinstance(move, Sending) else self.comm.recv
        return method(self.arrays[index], move.peer, move.tag)

    def both(self, index: int) -> Array:
        """A message sent and the next one received, which may take its place."""
        sent, came = self.exchange.moves[index : index + 2]
        assert isinstance(sent, Sending) and isinstance(came, Receiving)
        if came.into is not None:
            pair = given(self.comm, sent.x, sent.place, came.into, came.out)
            self.arrays[index : index + 2] = pair
        x, out = self.arrays[index : index + 2]
        return self.comm.sendrecv(x, sent.peer, out, came.peer, sent.tag)

    def batched(self) -> None:
        try:
            with self.comm.batch() as batch:
                for index, move in enumerate(self.exchange.moves):
                    method = batch.send if isinstance(move, Sending) else batch.recv
                    self.results[index] = method(self.arrays[index], move.peer, move.tag)
        except Exception as error:
            self.errors.append(error)

    def finish(self) -> Answer:
        for index in sorted(self.works, reverse=self.exchange.backwards):
            try:
                self.results[index] = self.works[index].wait()
            except Exception as error:
                self.errors.append(error)
        if self.errors:
            first = self.errors[0]
            return Answer(error=type(first).__name__, message=str(first))
        moves = enumerate(self.exchange.moves)
        self.came = [self.results[index] for index, move in moves if isinstance(move, Receiving)]
        self.values = [np.array(one, order="C") for one in self.came]
        return Answer(self.values, flaws=tuple(self.flaws()))

    def changes(self) -> bool:
        return not all(map(same, self.came, self.values))

    def flaws(self) -> Iterator[str]:
        """What is wrong with messages beside what they brought."""
        for index, move in enumerate(self.exchange.moves):
            array = self.arrays[index]
            if isinstance(move, Receiving):
                if move.into is not None and self.results[index] is not array:
                    yield "what was received is not in out"
                if move.into is None and shares(array, self.results[index]):
                    yield "an example was written to"
            elif not any(shares(array, came) for came in self.came) and not same(array, move.x):
                yield "what was sent was changed"
