"""A site while it is written for one rank: what its rule sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from .layout import Layout
from .rewrite import Call
from .site import Site, Tensor

HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
"""Element types whose parts are summed in float32: rounding each part to 11 bits or 8 would show,
and processors add them far more slowly than float32."""


NONE: Mapping[int, str] = MappingProxyType({})


class Writer(Protocol):
    """What adds nodes to a rank's graph."""

    layout: Layout
    rank: int

    def local(self, tensor: Tensor) -> str: ...

    def constant(self, array: npt.NDArray[Any]) -> str: ...

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str: ...


class LocalSite:
    """One site, and the writer that its nodes go to."""

    def __init__(
        self, writer: Writer, site: Site, is_partial: bool, given: Mapping[int, str] = NONE
    ) -> None:
        """Take inputs by their position from `given`, and the others as the rank has them."""
        self._writer, self._given = writer, given
        self.site, self.layout, self.rank = site, writer.layout, writer.rank
        self.is_partial = is_partial
        first = next(out for out in site.outputs if out is not None)
        sums = any(e.op in ("sum", "prod") and not e.whole_unless_atom for e in site.contracted)
        self.is_widened = is_partial and sums and first.data_type in HALF
        kind = TensorProto.FLOAT if self.is_widened else first.data_type
        self.dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(kind)

    def input(self, position: int) -> str:
        tensor = self.site.inputs[position]
        if tensor is None:
            return ""
        name = self._given.get(position) or self._writer.local(tensor)
        if self.is_widened and tensor.data_type in HALF:
            return self._writer.node("Cast", [name], to=TensorProto.FLOAT)
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        return self._writer.constant(array)

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self._writer.node(op_type, inputs, **attributes)

    def unchanged(self) -> Call:
        node = self.site.node
        inputs = [self.input(position) for position in range(len(node.input))]
        return Call(node.op_type, inputs, attributes(node))


def attributes(node: NodeProto) -> Mapping[str, Any]:
    """Return the attributes of a node as values."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
