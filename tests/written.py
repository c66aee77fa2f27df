"""Graphs in ONNX's text form, and runs of them on ranks that are threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

import rankwise
from rankwise.collectives import Communicator, local

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Any]


def model(ends: str, body: str) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    made = parser.parse_model(f"{header} g {ends} {{ {body} }}")
    weights = {"many": 7, "two": 2, "scale": np.float32(0.5), "limit": np.float32(11)}
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made


def run(
    size: int, made: onnx.ModelProto, feeds: Feeds | Callable[[int], Feeds]
) -> list[list[Array]]:
    """The outputs of every rank."""

    def on_rank(comm: Communicator) -> list[Array]:
        mine = feeds if isinstance(feeds, Mapping) else feeds(comm.rank)
        with rankwise.InferenceSession(made.SerializeToString(), comm=comm) as session:
            session.run(None, mine)  # a second run must not see the first
            return session.run(None, mine)

    return local.run(size, on_rank, timeout=60)
