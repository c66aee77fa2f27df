"""A rank's graph while nodes are added to it: fresh names, constants, messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt
from onnx import helper

from ..opset import DOMAIN
from ..weights import Weight
from .part import Part


class Draft:
    """Adds nodes to a part; what gathers rows does so among replicas."""

    def __init__(self, part: Part, taken: Iterable[str]) -> None:
        self.part = part
        self._taken = set(taken)
        self.base = ""
        """what new names begin with"""

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = self.free(f"{self.base}/constant")
        self.part.constants[name] = Weight.from_array(name, array)
        return name

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

    def free(self, name: str) -> str:
        """Return a name that nothing has yet: this one, or with a number behind it."""
        numbered = (f"{name}.{count}" for count in itertools.count(2))
        free = next(n for n in itertools.chain([name], numbered) if n not in self._taken)
        self._taken.add(free)
        return free
