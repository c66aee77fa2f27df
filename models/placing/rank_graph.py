"""The graph of one rank while it is written, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from ..opset import DOMAIN
from ..sharding.names import Names
from ..weights import Weight
from .placement import Shape


class RankGraph(Names):
    """Nodes and constants of one rank; a value is its name."""

    def __init__(self, rank: int, taken: set[str]) -> None:
        self.rank = rank
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Weight] = {}
        self.value_info: dict[str, ValueInfoProto] = {}
        super().__init__(taken, self.constants)

    def int64(self, *values: int) -> str:
        """Add a vector of integers; return its name."""
        return self.constant(np.array(values, np.int64))

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        (name,) = self.named(op_type, inputs, [self.free(f"{self.base}/{op_type}")], **attributes)
        return name

    def named(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[str]:
        """Add a node with these outputs; return them."""
        label = next(filter(None, outputs))
        self.nodes.append(
            helper.make_node(op_type, inputs, outputs, label, domain=domain, **attributes)
        )
        return outputs

    def communicate(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a communication node; return its output's name."""
        name = self.free(f"{self.base}/{op_type}")
        self.named(op_type, inputs, [name], domain=DOMAIN, **attributes)
        return name

    def declare(self, name: str, data_type: int, shape: Shape) -> None:
        """Say of what type and shape a value is."""
        self.value_info[name] = helper.make_tensor_value_info(name, data_type, shape)
