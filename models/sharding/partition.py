"""One rank's graph: the nodes of the whole graph, on this rank's part of the tensors.

Which nodes are written depends on the layout alone, so
that all ranks communicate in the same order; what differs is in the constants.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, helper

from ..bodies import bodies
from ..nodes import copied, draws, references
from .analysis import Analysis
from .exchanges import exchanges
from .halo import keep, run, sliding, with_halo
from .holding import Holding
from .kept import kept
from .layout import Layout, is_opaque, partial_op
from .local_site import LocalSite
from .part import Part
from .partials import ADDED
from .rules import find_rule
from .site import Body, Site, Tensor


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


class _Writer(Holding):
    """Writes the sites of a graph one after another."""

    def note(self, number: int) -> None:
        """Note the site that the newest nodes were written for."""
        part = self.part
        part.origins += [number] * (len(part.nodes) - len(part.origins))
        part.moved_for += [number] * (len(part.moved) - len(part.moved_for))

    def write(self, site: Site) -> None:
        """Add what computes a site's outputs."""
        self.base = next(name for name in site.node.output if name)
        if any(self.scopes.name("partial", name) for name in site.node.input):
            self._write_linear(site)
        elif any(name in self.layout.rows for name in site.node.output):
            self._write_rows(site)
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
            self.append(site.node)
        for name in filter(None, site.node.output):
            self.scopes.hold("whole", name, name)
            self.declare(name, self.analysis.tensors[name])

    def _write_bodies(self, site: Site) -> None:
        """Write a node with its bodies; each tensor passes as ranks have it, or whole."""
        node = copied(site.node)
        node.input[:] = [self._given(site, tensor) for tensor in site.inputs[: len(node.input)]]
        for graph, body in zip(bodies(node), site.bodies, strict=True):
            self._write_body(site, graph, body)
        made = site.outputs[: len(node.output)]
        node.output[:] = [self._taken_as(site, tensor) if tensor else "" for tensor in made]
        self.append(node)

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
                    self.declare(name, tensor)
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
        is_local = site.passes(tensor, self.layout.sharded) and self.is_sharded(tensor)
        name = self.name_of(tensor) if is_local else tensor.name
        self.scopes.hold("local" if is_local else "whole", tensor.name, name)
        self.declare(name, tensor)
        return name

    def _sees_shards(self, site: Site) -> bool:
        tensors = (*site.inputs, *site.outputs)
        return any(tensor is not None and self.is_sharded(tensor) for tensor in tensors)

    def _draw(self, site: Site) -> None:
        """Let every rank draw, so that all graphs are alike, and take what the first has drawn."""
        drawn = {name: self.free(f"{name}/drawn") for name in site.node.output if name}
        node = copied(site.node)
        node.output[:] = [drawn.get(name, "") for name in node.output]
        self.append(node)
        for name, own in drawn.items():
            self.communicate("Broadcast", own, name)
            if self.analysis.tensors[name].has_shape:
                self.count("Broadcast", self.analysis.tensors[name])

    def _write_local(self, site: Site) -> None:
        op = partial_op(site, self.layout)
        local = LocalSite(self, site, op is not None, self._slid(site))
        rule = find_rule(site.node.domain, site.node.op_type)
        assert rule is not None
        call = rule.localize(local)
        names = ["" if out is None else self.name_of(out, op is not None) for out in site.outputs]
        domain = site.node.domain if call.domain is None else call.domain
        node = helper.make_node(
            call.op_type, call.inputs, names, site.name, domain=domain, **call.attributes
        )
        self.append(node)
        for name, out in zip(names, site.outputs, strict=True):
            if out is not None and op is not None:
                self.hold_partial(out, name, op, local.is_widened)
            elif out is not None:
                self.hold(out, name)

    def _slid(self, site: Site) -> dict[int, str]:
        """Return what a node's kernel reads, where each rank goes over its part of a dim."""
        window = sliding(site.windows, self.layout)
        if window is None:
            return {}
        tensor = site.tensor(0)
        is_whole = tensor.is_weight or self.scopes.name("whole", tensor.name) is not None
        if is_whole or not self.layout.holds(window.given):
            every = range(window.length)
            reads = window.reads(run(self.layout, window.made, self.rank))
            return {0: keep(self, self.whole(tensor), window.dim, every, reads)}
        name = with_halo(self, self.local(tensor), tensor, window, self.layout, self.rank)
        return {0: name}

    def _write_out(self, site: Site) -> None:
        """Write a node that communicates by itself; its outputs are whole."""
        rule = find_rule(site.node.domain, site.node.op_type)
        assert rule is not None and rule.write_out is not None
        for name, out in zip(rule.write_out(self, site), site.outputs, strict=True):
            if out is not None:
                self.add("Identity", [name], out.name)
                self.hold(out, out.name)
        self.part.moved += exchanges(self.analysis, site, self.layout.size)

    def _write_rows(self, site: Site) -> None:
        """Compute a node on this rank's rows of whole tensors."""
        made = next(out for out in site.outputs if out is not None)
        axis = made.axes[self.layout.rows[made.name]]
        assert axis is not None
        node = copied(site.node)
        inputs = [self.rows(tensor, axis) if tensor else "" for tensor in site.inputs]
        node.input[:] = inputs[: len(node.input)]
        node.output[:] = [self.free(f"{name}/rows") if name else "" for name in node.output]
        self.append(node)
        for out, name in zip(site.outputs, node.output, strict=True):
            if out is not None:
                self.hold(out, name)

    def _write_linear(self, site: Site) -> None:
        """Compute a node on this rank's summands; what is whole is added by the first rank."""
        inputs = [self.scopes.name("partial", name) for name in site.node.input]
        for k, (name, tensor) in enumerate(zip(inputs, site.inputs, strict=True)):
            if name is None and tensor is not None:
                if self.layout.row_dim(tensor.name) is not None:
                    self.whole(tensor)  # all ranks take part, though one alone adds it
                is_added = site.node.op_type in ADDED and self.rank > 0
                inputs[k] = self._zero(tensor) if is_added else self.whole(tensor)
        name = self.name_of(site.output(), is_partial=True)
        node = copied(site.node)
        node.input[:], node.output[:] = [name or "" for name in inputs], [name]
        self.append(node)
        self.hold_partial(site.output(), name, "sum")

    def _zero(self, tensor: Tensor) -> str:
        return self.constant(np.zeros((), helper.tensor_dtype_to_np_dtype(tensor.data_type)))
