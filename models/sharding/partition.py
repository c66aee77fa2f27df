"""One rank's graph: the nodes of the whole graph, on this rank's part of the tensors.

A name of the whole graph keeps its meaning: `x` is the whole tensor x, `x/local` this rank's part
of it, `x/partial` this rank's summand. Which nodes are written depends on the layout alone, so
that all ranks communicate in the same order; what differs is in the constants.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from ..bodies import bodies
from ..nodes import copied, draws, references
from ..opset import DOMAIN
from ..weights import IndexSet, Weight
from . import relayout
from .analysis import Analysis, usual_bytes
from .declared import declared, symbols
from .exchanges import exchanges
from .kept import kept
from .layout import Layout, is_opaque, partial_op
from .local_site import LocalSite
from .machine import Transfer
from .part import Held, Part
from .partials import ADDED, carried
from .rewrite import Body as Step
from .rules import find_rule
from .scopes import Form, Scopes
from .site import Body, Site, Tensor

WHOLE = Layout(frozenset(), 1)
"""The layout of whole tensors."""


def partition(analysis: Analysis, layout: Layout, rank: int) -> Part:
    """Write the graph of one rank."""
    writer = _Writer(analysis, layout, rank)
    makers = dict[str, int]()
    for number, site in enumerate(analysis.outermost):
        writer.write(site)
        writer.note(number)
        makers |= dict.fromkeys(site.node.output, number)
    for value in analysis.graph.outputs:
        writer.whole(analysis.tensors[value.name])
        writer.note(makers.get(value.name, 0))
    writer.part.forms = writer.forms
    writer.part.states = tuple(kept(analysis, layout, writer.part.nodes, writer.locals))
    return writer.part.pruned({value.name for value in analysis.graph.outputs})


class _Writer:
    """Adds nodes to a part, and knows under which names a tensor is held so far."""

    def __init__(self, analysis: Analysis, layout: Layout, rank: int) -> None:
        self.analysis, self.layout, self.rank = analysis, layout, rank
        self.scopes = Scopes()
        outermost = self.scopes.outermost
        self.part = Part(rank, outermost.nodes, value_info=outermost.value_info)
        for value in analysis.graph.inputs:
            self.scopes.hold("whole", value.name, value.name)
        self._carried = carried(analysis, layout)
        self._symbols = symbols(analysis)
        self._taken = set(analysis.tensors)
        self._base = ""

    def note(self, number: int) -> None:
        """Note the site that the newest nodes were written for."""
        part = self.part
        part.origins += [number] * (len(part.nodes) - len(part.origins))
        part.moved_for += [number] * (len(part.moved) - len(part.moved_for))

    @property
    def forms(self) -> dict[str, str]:
        """The tensors of the whole graph by the names that this rank has them under."""
        names = self.scopes.outermost.names.items()
        return {name: tensor for (_, tensor), name in names}

    @property
    def locals(self) -> dict[str, str]:
        """Names of this rank's parts of tensors, of those outside of bodies."""
        names = self.scopes.outermost.names.items()
        return {tensor: name for (form, tensor), name in names if form == "local"}

    def write(self, site: Site) -> None:
        """Add what computes a site's outputs."""
        self._base = next(name for name in site.node.output if name)
        if any(self.scopes.name("partial", name) for name in site.node.input):
            self._write_linear(site)
        elif site.bodies and any(map(self._sees_shards, site.inside)):
            self._write_bodies(site)
        elif self._sees_shards(site) and not site.bodies and not is_opaque(site, self.layout):
            if any(map(self.layout.holds, site.gathered)):
                self._write_out(site)
            else:
                self._write_local(site)
        else:
            self._copy(site)

    def _copy(self, site: Site) -> None:
        """Compute a node as it is, on whole tensors."""
        for name in references(site.node):
            self.whole(self.analysis.tensors[name])
        if self.layout.size > 1 and draws(site.node):
            self._draw(site)
        else:
            self._append(site.node)
        for name in filter(None, site.node.output):
            self.scopes.hold("whole", name, name)
            self._declare(name, self.analysis.tensors[name])

    def _write_bodies(self, site: Site) -> None:
        """Write a node with its bodies; each tensor passes as ranks have it, or whole."""
        node = copied(site.node)
        node.input[:] = [self._given(site, tensor) for tensor in site.inputs[: len(node.input)]]
        for graph, body in zip(bodies(node), site.bodies, strict=True):
            self._write_body(site, graph, body)
        made = site.outputs[: len(node.output)]
        node.output[:] = [self._taken_as(site, tensor) if tensor else "" for tensor in made]
        self._append(node)

    def _write_body(self, site: Site, graph: GraphProto, body: Body) -> None:
        with self.scopes.body(body.times) as scope:
            inputs = [self._taken_as(site, tensor) for tensor in body.inputs]
            for inner in body.sites:
                self.write(inner)
            outputs = [self._given(site, tensor) for tensor in body.outputs]
            for values, names, tensors in (
                (graph.input, inputs, body.inputs),
                (graph.output, outputs, body.outputs),
            ):
                for value, name, tensor in zip(values, names, tensors, strict=True):
                    value.name = name
                    self._declare(name, tensor)
                    if name in scope.value_info:
                        value.CopyFrom(scope.value_info.pop(name))
        del graph.node[:]
        graph.node.extend(scope.nodes)
        graph.value_info.extend(scope.value_info.values())

    def _given(self, site: Site, tensor: Tensor | None) -> str:
        """Return the name under which a tensor goes into a node with bodies, or out of one."""
        if tensor is None:
            return ""
        is_local = site.passes(tensor, self.layout.sharded)
        return self.local(tensor) if is_local else self.whole(tensor)

    def _taken_as(self, site: Site, tensor: Tensor) -> str:
        """Return the name under which a tensor comes into a body, or from a node with bodies."""
        is_local = site.passes(tensor, self.layout.sharded) and self._is_sharded(tensor)
        name = self._name_of(tensor) if is_local else tensor.name
        self.scopes.hold("local" if is_local else "whole", tensor.name, name)
        self._declare(name, tensor)
        return name

    def _append(self, node: NodeProto) -> None:
        self.scopes.inner.nodes.append(node)

    def _sees_shards(self, site: Site) -> bool:
        tensors = (*site.inputs, *site.outputs)
        return any(tensor is not None and self._is_sharded(tensor) for tensor in tensors)

    def _declare(self, name: str, tensor: Tensor) -> None:
        """Tell of a tensor what is known of its sizes."""
        if tensor.data_type:
            layout = WHOLE if name == tensor.name else self.layout
            value = declared(name, tensor, self._symbols, layout, self.rank)
            self.scopes.inner.value_info[name] = value

    def _draw(self, site: Site) -> None:
        """Let every rank draw, so that all graphs are alike, and take what the first has drawn."""
        drawn = {name: self._free(f"{name}/drawn") for name in site.node.output if name}
        node = copied(site.node)
        node.output[:] = [drawn.get(name, "") for name in node.output]
        self._append(node)
        for name, own in drawn.items():
            self._communicate("Broadcast", own, name)
            if self.analysis.tensors[name].has_shape:
                self._count("Broadcast", self.analysis.tensors[name])

    def _write_local(self, site: Site) -> None:
        op = partial_op(site, self.layout)
        local = LocalSite(self, site, op is not None)
        rule = find_rule(site.node.domain, site.node.op_type)
        assert rule is not None
        call = rule.localize(local)
        names = ["" if out is None else self._name_of(out, op is not None) for out in site.outputs]
        domain = site.node.domain if call.domain is None else call.domain
        node = helper.make_node(
            call.op_type, call.inputs, names, site.name, domain=domain, **call.attributes
        )
        self._append(node)
        for name, out in zip(names, site.outputs, strict=True):
            if out is not None and op is not None:
                self._hold_partial(out, name, op, local.is_widened)
            elif out is not None:
                self._hold(out, name)

    def _write_out(self, site: Site) -> None:
        """Write a node that communicates by itself; its outputs are whole."""
        rule = find_rule(site.node.domain, site.node.op_type)
        assert rule is not None and rule.write_out is not None
        for name, out in zip(rule.write_out(self, site), site.outputs, strict=True):
            if out is not None:
                self._add("Identity", [name], out.name)
                self._hold(out, out.name)
        self.part.moved += exchanges(self.analysis, site, self.layout.size)

    def _write_linear(self, site: Site) -> None:
        """Compute a node on this rank's summands; what is whole is added by the first rank."""
        inputs = [self.scopes.name("partial", name) for name in site.node.input]
        for k, (name, tensor) in enumerate(zip(inputs, site.inputs, strict=True)):
            if name is None and tensor is not None:
                is_added = site.node.op_type in ADDED and self.rank > 0
                inputs[k] = self._zero(tensor) if is_added else self.whole(tensor)
        name = self._name_of(site.output(), is_partial=True)
        node = copied(site.node)
        node.input[:], node.output[:] = [name or "" for name in inputs], [name]
        self._append(node)
        self._hold_partial(site.output(), name, "sum")

    def _zero(self, tensor: Tensor) -> str:
        return self.constant(np.zeros((), helper.tensor_dtype_to_np_dtype(tensor.data_type)))

    def _hold_partial(self, out: Tensor, name: str, op: str, is_widened: bool = False) -> None:
        """Note this rank's part of an output, to be combined now or where it meets another."""
        if out.name in self._carried:
            self.scopes.hold("partial", out.name, name)
            self._declare(name, out)
        else:
            self._hold(out, self._complete(name, out, op, is_widened))

    def _name_of(self, tensor: Tensor, is_partial: bool = False) -> str:
        if is_partial:
            return self._free(f"{tensor.name}/partial")
        return self._free(f"{tensor.name}/local") if self._is_sharded(tensor) else tensor.name

    def _complete(self, name: str, out: Tensor, op: str, is_widened: bool) -> str:
        """Combine the ranks' parts of an output."""
        final = self._name_of(out)
        reduced = self._free(f"{out.name}/float32") if is_widened else final
        self._communicate("AllReduce", name, reduced, op=op)
        self._count("AllReduce", out, 2 if is_widened else 1)
        if is_widened:
            self._add("Cast", [reduced], final, to=out.data_type)
        return final

    def _hold(self, tensor: Tensor, name: str) -> None:
        self.scopes.hold("local" if self._is_sharded(tensor) else "whole", tensor.name, name)
        self._declare(name, tensor)

    def _is_sharded(self, tensor: Tensor) -> bool:
        return any(self.layout.holds(axis) for axis in tensor.axes)

    def whole(self, tensor: Tensor) -> str:
        """Return the name of a whole tensor, gathered if this rank has its part only."""
        name = tensor.name
        if self.scopes.name("whole", name):
            return name
        if tensor.is_weight:
            return self._take_weight("whole", name, tensor, (None,) * tensor.rank)
        base, self._base = self._base, name
        with self.scopes.around("local", name) as own:
            self._rename(relayout.to_whole(self, own, tensor, self.layout, self.rank), name)
            self.scopes.hold("whole", name, name)
            self._declare(name, tensor)
            self._count("AllGather", tensor)
        self._base = base
        return name

    def local(self, tensor: Tensor) -> str:
        """Return the name of this rank's part of a tensor; all of it where it is not sharded."""
        if not self._is_sharded(tensor):
            return self.whole(tensor)
        if held := self.scopes.name("local", tensor.name):
            return held
        name = self._free(f"{tensor.name}/local")
        if tensor.is_weight:
            index = tuple(self.layout.indices(axis, self.rank) for axis in tensor.axes)
            return self._take_weight("local", name, tensor, index)
        with self.scopes.around("whole", tensor.name) as whole:
            self._rename(relayout.to_local(self, whole, tensor, self.layout, self.rank), name)
            self.scopes.hold("local", tensor.name, name)
            self._declare(name, tensor)
        return name

    def _take_weight(
        self, form: Form, name: str, tensor: Tensor, index: tuple[IndexSet, ...]
    ) -> str:
        weight = self.analysis.graph.weights[tensor.name]
        self.part.held[name] = Held(name, weight, index or (None,) * len(weight.shape))
        self.scopes.outermost.names[form, tensor.name] = name
        return name

    def _rename(self, old: str, new: str) -> None:
        """Let the newest node make a tensor of that name."""
        node = self.scopes.inner.nodes[-1]
        assert list(node.output) == [old]
        node.output[0] = new

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = self._free(f"{self._base}/constant")
        self.part.constants[name] = Weight.from_array(name, array)
        return name

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self._add(op_type, inputs, self._free(f"{self._base}/{op_type}"), **attributes)

    def all_gather(self, name: str, dim: int) -> str:
        gathered = self._free(f"{self._base}/gathered")
        return self._communicate("AllGather", name, gathered, dim=dim)

    def scan(
        self, states: Sequence[str], elements: Sequence[str], kinds: Sequence[int], body: Step
    ) -> list[str]:
        inputs = [self._free(f"{self._base}/{name}") for name in ("state",) * len(states)]
        inputs += [self._free(f"{self._base}/element") for _ in elements]
        with self.scopes.body(1.0) as scope:
            after, made = body(inputs[: len(states)], inputs[len(states) :])
        given = [*zip(inputs, kinds, strict=True)]
        graph = helper.make_graph(
            scope.nodes,
            "body",
            [helper.make_tensor_value_info(name, kind, None) for name, kind in given],
            [ValueInfoProto(name=name) for name in (*after, *made)],
        )
        outputs = [self._free(f"{self._base}/scanned") for _ in graph.output]
        node = helper.make_node(
            "Scan", [*states, *elements], outputs, outputs[0], body=graph,
            num_scan_inputs=len(elements),
        )  # fmt: skip
        self._append(node)
        return outputs

    def _add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(op_type, inputs, [output], output, **attributes)
        self._append(node)
        return output

    def _communicate(self, op_type: str, name: str, output: str, **attributes: Any) -> str:
        node = helper.make_node(
            op_type, [name], [output], f"{op_type}/{output}", domain=DOMAIN, **attributes
        )
        self._append(node)
        return output

    def _count(self, op_type: str, tensor: Tensor, times: int = 1) -> None:
        nbytes = times * usual_bytes(self.analysis, tensor)
        is_state = op_type == "AllGather" and tensor.name in self.analysis.states
        moved = Transfer(op_type, nbytes, self.layout.size, is_state)
        self.part.moved += [moved] * max(1, round(self.scopes.inner.times))

    def _free(self, name: str) -> str:
        """Return a name that nothing has yet: this one, or with a number behind it."""
        numbered = (f"{name}.{count}" for count in itertools.count(2))
        free = next(n for n in itertools.chain([name], numbered) if n not in self._taken)
        self._taken.add(free)
        return free
