"""A part while nodes are added to it, messages between replicas and stages among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import helper

from ...opset import DOMAIN
from ..names import Names
from ..part import Part


class Draft(Names):
    """Adds nodes to a part; what gathers rows does so among replicas."""

    def __init__(self, part: Part, taken: Iterable[str]) -> None:
        super().__init__(taken, part.constants)
        self.part = part

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = self.free(f"{self.base}/{op_type}")
        node = helper.make_node(op_type, inputs, [output], output, **attributes)
        self.part.nodes.append(node)
        return output

    def all_gather(self, name: str, dim: int) -> str:
        output = self.free(f"{self.base}/gathered")
        self.communicate("AllGather", [name], output, "dp", dim=dim)
        return output

    def communicate(
        self, op_type: str, inputs: Sequence[str], output: str | None, axis: str, **attributes: Any
    ) -> None:
        named = output or f"{inputs[0]}.{inputs[1]}"
        node = helper.make_node(
            op_type, inputs, [output] if output else [], f"{op_type}/{named}", domain=DOMAIN,
            axis_name=axis, **attributes,
        )  # fmt: skip
        self.part.nodes.append(node)

    def rename(self, old: str, new: str) -> None:
        """Let the newest node make a tensor of that name."""
        node = self.part.nodes[-1]
        assert list(node.output) == [old]
        node.output[0] = new
