"""Send and Recv of a graph: buffered sends, and shapes that travel with the data.

Each message is two: a head with element type and shape, then the elements. So a receiver needs no
shape, and one that expects another tensor says which came, instead of waiting or misreading.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np
from onnx import helper

from ..collectives import Batch, Communicator, MismatchError
from .arrays import Array

HEAD = 2 + 64  # element type, number of dims, and as many dims as numpy can have


class Outbox:
    """The sends of one run of a plan: they do not block, and are complete at its end.

    What has left is let go of when more is sent, so that a loop holds what is on its way alone.
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[Array, Batch]] = deque()
        self._held = Counter[int]()  # by id; the arrays live as long as they are under way

    def send(self, comm: Communicator, array: Array, dest: int, tag: int) -> None:
        """Begin to send; the array must not change while the outbox holds it."""
        _check_peer(comm, "dest", dest)
        while self._under_way and all(work.test() for work in self._under_way[0][1].works):
            self._complete_oldest()
        head = np.zeros(HEAD, np.int64)
        head[: 2 + array.ndim] = (
            helper.np_dtype_to_tensor_dtype(array.dtype), array.ndim, *array.shape,
        )  # fmt: skip
        batch = Batch(comm)
        batch.send(head, dest, tag)
        batch.send(array, dest, tag)
        self._under_way.append((array, batch))
        self._held[id(array)] += 1

    def holds(self, array: object) -> bool:
        """Say whether an array is being sent, and must not change."""
        return self._held[id(array)] > 0

    def complete(self) -> None:
        """Wait until all have left."""
        while self._under_way:
            self._complete_oldest()

    def _complete_oldest(self) -> None:
        array, batch = self._under_way[0]
        batch.complete()
        self._under_way.popleft()
        self._held[id(array)] -= 1
        if not self._held[id(array)]:
            del self._held[id(array)]

    def abandon(self) -> None:
        """Keep what is under way for ever: after a failure nobody completes it."""
        ABANDONED.extend(batch for _, batch in self._under_way)


ABANDONED: list[Batch] = []


def receive(
    comm: Communicator, source: int, tag: int, dtype: np.dtype[Any], shape: list[int] | None
) -> Array:
    """Receive one tensor. Raises MismatchError for one of another type or shape."""
    _check_peer(comm, "source", source)
    head = comm.recv(np.empty(HEAD, np.int64), source, tag)
    came = np.empty(
        tuple(head[2 : 2 + head[1]].tolist()), helper.tensor_dtype_to_np_dtype(int(head[0]))
    )
    comm.recv(came, source, tag)
    if came.dtype != dtype or (shape is not None and list(came.shape) != list(shape)):
        wanted = "any shape" if shape is None else tuple(shape)
        raise MismatchError(
            f"expected {dtype} {wanted} of rank {source}, got {came.dtype} {came.shape}"
        )
    return came


def _check_peer(comm: Communicator, name: str, rank: int) -> None:
    if not 0 <= rank < comm.size:
        raise ValueError(f"expected {name} to be a rank below {comm.size}, got {rank}")
