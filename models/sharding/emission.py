"""Nodes of one rank's graph: where they go, and what their communication weighs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from ..opset import DOMAIN
from .analysis import Analysis, usual_bytes
from .axes import Size
from .declared import sized, symbols
from .layout import Layout
from .machine import Transfer
from .names import Names
from .part import Part
from .rewrite import Body
from .scopes import Scopes
from .site import Tensor


class Emission(Names):
    """Adds nodes to a part: to its graph, or to the body that is being written."""

    def __init__(self, analysis: Analysis, layout: Layout, rank: int) -> None:
        self.analysis, self.layout, self.rank = analysis, layout, rank
        self.scopes = Scopes()
        outermost = self.scopes.outermost
        self.part = Part(rank, outermost.nodes, value_info=outermost.value_info)
        super().__init__(analysis.tensors, self.part.constants)
        self.symbols = symbols(analysis)

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.add(op_type, inputs, self.free(f"{self.base}/{op_type}"), **attributes)

    def all_gather(self, name: str, dim: int) -> str:
        gathered = self.free(f"{self.base}/gathered")
        return self.communicate("AllGather", name, gathered, dim=dim)

    def send(self, name: str, dest: int, tensor: Tensor, dim: int, count: int) -> None:
        node = helper.make_node(
            "Send", [name, self.constant(np.array(dest))], [], f"Send/{name}/{dest}", domain=DOMAIN
        )
        self.append(node)
        nbytes = usual_bytes(self.analysis, tensor) * count // tensor.shape[dim].first
        self._note_moved(Transfer("Send", nbytes, 2))

    def recv(self, source: int, tensor: Tensor, dim: int, count: int) -> str:
        name = self.free(f"{self.base}/halo")
        sizes = [
            Size(count, count) if k == dim else self.layout.local(axis, self.rank)
            for k, axis in enumerate(tensor.axes)
        ]
        own: dict[str, Any] = {"dtype": tensor.data_type}
        if all(size.is_static for size in sizes):  # else the shape travels with the data
            own["shape"] = [size.first for size in sizes]
        node = helper.make_node(
            "Recv", [self.constant(np.array(source))], [name], f"Recv/{name}", domain=DOMAIN, **own
        )
        self.append(node)
        value = sized(name, tensor, self.symbols, sizes)
        self.scopes.inner.value_info[name] = value
        return name

    def scan(
        self, states: Sequence[str], elements: Sequence[str], kinds: Sequence[int], body: Body
    ) -> list[str]:
        inputs = [self.free(f"{self.base}/{name}") for name in ("state",) * len(states)]
        inputs += [self.free(f"{self.base}/element") for _ in elements]
        with self.scopes.body(1.0) as scope:
            after, made = body(inputs[: len(states)], inputs[len(states) :])
        given = [*zip(inputs, kinds, strict=True)]
        graph = helper.make_graph(
            scope.nodes,
            "body",
            [helper.make_tensor_value_info(name, kind, None) for name, kind in given],
            [ValueInfoProto(name=name) for name in (*after, *made)],
        )
        outputs = [self.free(f"{self.base}/scanned") for _ in graph.output]
        node = helper.make_node(
            "Scan", [*states, *elements], outputs, outputs[0], body=graph,
            num_scan_inputs=len(elements),
        )  # fmt: skip
        self.append(node)
        return outputs

    def add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node that makes this output; return its name."""
        node = helper.make_node(op_type, inputs, [output], output, **attributes)
        self.append(node)
        return output

    def communicate(self, op_type: str, name: str, output: str, **attributes: Any) -> str:
        """Add a collective of all ranks that makes this output; return its name."""
        node = helper.make_node(
            op_type, [name], [output], f"{op_type}/{output}", domain=DOMAIN, **attributes
        )
        self.append(node)
        return output

    def count(self, op_type: str, tensor: Tensor, times: int = 1) -> None:
        """Reckon with a collective on a tensor, or on so many of its size."""
        nbytes = times * usual_bytes(self.analysis, tensor)
        is_state = op_type == "AllGather" and tensor.name in self.analysis.states
        self._note_moved(Transfer(op_type, nbytes, self.layout.size, is_state))

    def _note_moved(self, moved: Transfer) -> None:
        self.part.moved += [moved] * max(1, round(self.scopes.inner.times))

    def append(self, node: NodeProto) -> None:
        """Add a node."""
        self.scopes.inner.nodes.append(node)

    def rename(self, old: str, new: str) -> None:
        """Let the newest node make a tensor of that name."""
        node = self.scopes.inner.nodes[-1]
        assert list(node.output) == [old]
        node.output[0] = new
