"""What each communication node does, on numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import helper

from ..collectives import Communicator
from .arrays import Array
from .messages import Outbox, receive


class Call(NamedTuple):
    """One communication node, with its operands looked up."""

    comm: Communicator
    x: Any
    """the operand, None where it is absent"""
    peer: int
    is_free: bool
    """nobody else reads the operand: it may be overwritten"""
    attributes: Mapping[str, Any]
    outbox: Outbox

    @property
    def is_root(self) -> bool:
        return bool(self.comm.rank == self.attributes["root"])

    @property
    def out(self) -> Any:
        """The operand, if the result may take its place."""
        return self.x if self.is_free else None

    def chosen(self, *names: str) -> dict[str, Any]:
        """Return these attributes, and the algorithm."""
        return {name: self.attributes[name] for name in (*names, "algorithm")}


def _send(call: Call) -> None:
    call.outbox.send(call.comm, call.x, call.peer, call.attributes["tag"])


def _recv(call: Call) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(call.attributes["dtype"])
    shape = call.attributes.get("shape")
    return receive(call.comm, call.peer, call.attributes["tag"], dtype, shape)


def _all_reduce(call: Call) -> Array:
    return call.comm.allreduce(call.x, out=call.out, **call.chosen("op"))


def _all_gather(call: Call) -> Array:
    return call.comm.allgather(call.x, **call.chosen("dim"))


def _reduce_scatter(call: Call) -> Array:
    return call.comm.reduce_scatter(call.x, **call.chosen("op", "dim"))


def _all_to_all(call: Call) -> Array:
    return call.comm.alltoall(call.x, **call.chosen("split_dim", "concat_dim"))


def _broadcast(call: Call) -> Array:
    if not call.is_root:
        return call.comm.broadcast(None, **call.chosen("root"))
    return call.comm.broadcast(call.x, out=call.out, **call.chosen("root"))


def _scatter(call: Call) -> Array:
    return call.comm.scatter(call.x if call.is_root else None, **call.chosen("root", "dim"))


def _gather(call: Call) -> Array:
    gathered = call.comm.gather(call.x, **call.chosen("root", "dim"))
    if gathered is not None:
        return gathered
    shape = list(call.x.shape) or [1]
    shape[call.attributes["dim"]] = 0
    return np.empty(shape, call.x.dtype)


def _reduce(call: Call) -> Array:
    reduced = call.comm.reduce(call.x, **call.chosen("op", "root"))
    if reduced is not None:
        return reduced
    kept: Array = call.x if call.is_free else call.x.copy()
    return kept


def _barrier(call: Call) -> None:
    call.comm.barrier(**call.chosen())


def _rank(call: Call) -> Array:
    return np.array(call.comm.rank)


def _size(call: Call) -> Array:
    return np.array(call.comm.size)


ACTIONS: dict[str, Callable[[Call], Array | None]] = {
    "Rank": _rank, "Size": _size, "Send": _send, "Recv": _recv, "AllReduce": _all_reduce,
    "AllGather": _all_gather, "ReduceScatter": _reduce_scatter, "AllToAll": _all_to_all,
    "Broadcast": _broadcast, "Scatter": _scatter, "Gather": _gather, "Reduce": _reduce,
    "Barrier": _barrier,
}  # fmt: skip
