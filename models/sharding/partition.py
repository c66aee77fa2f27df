"""One rank's graph: the nodes of the whole graph, on this rank's part of the tensors.

A name of the whole graph keeps its meaning: `x` is the whole tensor x, `x/local` this rank's part
of it, `x/partial` this rank's summand. Which nodes are written depends on the layout alone, so
that all ranks communicate in the same order; what differs is in the constants.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from ..nodes import draws, references, subgraphs
from ..opset import DOMAIN
from ..states import State
from ..weights import IndexSet, Weight
from . import relayout
from .analysis import Analysis, usual_bytes
from .kept import kept
from .layout import Layout, is_opaque, partial_op
from .machine import Transfer
from .partials import ADDED, carried
from .rewrite import Call
from .rules import find_rule
from .site import Site, Tensor

HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
"""Element types whose parts are summed in float32: rounding each part to 11 bits or 8 would show,
and processors add them far more slowly than float32."""


class Held(NamedTuple):
    """A weight, or the part of it, that a rank holds."""

    name: str
    weight: Weight
    kept: tuple[IndexSet, ...]
    """indices of each dim"""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(
            size if kept is None else len(kept)
            for size, kept in zip(self.weight.shape, self.kept, strict=True)
        )

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes * _count(self.shape) // (self.weight.count or 1)


@dataclass
class Part:
    """One rank's graph, its weights not read yet."""

    rank: int
    nodes: list[NodeProto] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    constants: dict[str, Weight] = field(default_factory=dict)
    value_info: dict[str, ValueInfoProto] = field(default_factory=dict)
    """ranks of what bodies read: onnxruntime's Scan must know them before it runs"""
    moved: list[Transfer] = field(default_factory=list)
    """what its collectives move in a run of the usual size"""
    states: tuple[State, ...] = ()
    """those that may stay on their ranks from run to run"""
    origins: list[int] = field(default_factory=list)
    """for each node the number of the site that it was written for"""
    moved_for: list[int] = field(default_factory=list)
    """for each of `moved` the number of its site"""
    given: list[Transfer] = field(default_factory=list)
    """what it moves to give the outputs to ranks that did not make them"""
    forms: dict[str, str] = field(default_factory=dict)
    """the tensor of the whole graph that a name is, or is a part of"""

    @property
    def weight_bytes(self) -> int:
        """Bytes of initializers that this rank holds when it runs."""
        weights = sum(held.nbytes for held in self.held.values())
        return weights + sum(weight.nbytes for weight in self.constants.values())

    @property
    def sent(self) -> float:
        """Bytes that the rank sends in a run of the usual size."""
        return sum(each.sent for each in (*self.moved, *self.given))

    @property
    def collectives(self) -> Counter[str]:
        return Counter(node.op_type for node in self.nodes if node.domain == DOMAIN)

    def pruned(self, outputs: Set[str]) -> Part:
        """Return the part without weights that nothing reads."""
        used = outputs | {name for node in self.nodes for name in references(node)}
        held = {name: held for name, held in self.held.items() if name in used}
        return replace(self, held=held)


def _count(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def partition(analysis: Analysis, layout: Layout, rank: int) -> Part:
    """Write the graph of one rank."""
    writer = _Writer(analysis, layout, rank)
    makers = dict[str, int]()
    for number, site in enumerate(analysis.sites):
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
        self.part = Part(rank)
        self._whole = {value.name: value.name for value in analysis.graph.inputs}
        self.locals: dict[str, str] = {}
        self._partial: dict[str, str] = {}
        self._carried = carried(analysis, layout)
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
        forms = (self._whole, self.locals, self._partial)
        return {form: name for some in forms for name, form in some.items()}

    def write(self, site: Site) -> None:
        """Add what computes a site's outputs."""
        self._base = next(name for name in site.node.output if name)
        tensors = [tensor for tensor in (*site.inputs, *site.outputs) if tensor is not None]
        if not self._partial.keys().isdisjoint(site.node.input):
            self._write_linear(site)
        elif any(map(self._is_sharded, tensors)) and not is_opaque(site, self.layout):
            self._write_local(site)
        else:
            self._copy(site)

    def _copy(self, site: Site) -> None:
        """Compute a node as it is, on whole tensors."""
        for name in references(site.node):
            tensor = self.analysis.tensors[name]
            self.whole(tensor)
            if tensor.has_shape and any(subgraphs(site.node)):
                kind = helper.make_tensor_type_proto(tensor.data_type, [None] * tensor.rank)
                self.part.value_info[name] = ValueInfoProto(name=name, type=kind)
        if self.layout.size > 1 and draws(site.node):
            self._draw(site)
        else:
            self.part.nodes.append(site.node)
        self._whole |= {name: name for name in site.node.output if name}

    def _draw(self, site: Site) -> None:
        """Let every rank draw, so that all graphs are alike, and take what the first has drawn."""
        drawn = {name: self._free(f"{name}/drawn") for name in site.node.output if name}
        node = NodeProto()
        node.CopyFrom(site.node)
        node.output[:] = [drawn.get(name, "") for name in node.output]
        self.part.nodes.append(node)
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
        self.part.nodes.append(node)
        for name, out in zip(names, site.outputs, strict=True):
            if out is not None and op is not None:
                self._hold_partial(out, name, op, local.is_widened)
            elif out is not None:
                self._hold(out, name)

    def _write_linear(self, site: Site) -> None:
        """Compute a node on this rank's summands; what is whole is added by the first rank."""
        inputs = [self._partial.get(name) for name in site.node.input]
        for k, (name, tensor) in enumerate(zip(inputs, site.inputs, strict=True)):
            if name is None and tensor is not None:
                is_added = site.node.op_type in ADDED and self.rank > 0
                inputs[k] = self._zero(tensor) if is_added else self.whole(tensor)
        name = self._name_of(site.output(), is_partial=True)
        node = NodeProto()
        node.CopyFrom(site.node)
        node.input[:], node.output[:] = [name or "" for name in inputs], [name]
        self.part.nodes.append(node)
        self._hold_partial(site.output(), name, "sum")

    def _zero(self, tensor: Tensor) -> str:
        return self.constant(np.zeros((), helper.tensor_dtype_to_np_dtype(tensor.data_type)))

    def _hold_partial(self, out: Tensor, name: str, op: str, is_widened: bool = False) -> None:
        """Note this rank's part of an output, to be combined now or where it meets another."""
        if out.name in self._carried:
            self._partial[out.name] = name
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
        (self.locals if self._is_sharded(tensor) else self._whole)[tensor.name] = name

    def _is_sharded(self, tensor: Tensor) -> bool:
        return any(self.layout.holds(axis) for axis in tensor.axes)

    def whole(self, tensor: Tensor) -> str:
        """Return the name of a whole tensor, gathered if this rank has its part only."""
        name = tensor.name
        if name not in self._whole:
            if tensor.is_weight:
                self._take_weight(name, name, (None,) * tensor.rank)
            else:
                base, self._base = self._base, name
                gathered = relayout.to_whole(
                    self, self.locals[name], tensor, self.layout, self.rank
                )
                self._rename(gathered, name)
                self._count("AllGather", tensor)
                self._base = base
            self._whole[name] = name
        return name

    def local(self, tensor: Tensor) -> str:
        """Return the name of this rank's part of a tensor; all of it where it is not sharded."""
        name = tensor.name
        if not self._is_sharded(tensor):
            return self.whole(tensor)
        if name not in self.locals:
            if tensor.is_weight:
                index = tuple(self.layout.indices(axis, self.rank) for axis in tensor.axes)
                self.locals[name] = self._free(f"{name}/local")
                self._take_weight(self.locals[name], name, index)
            else:
                cut = relayout.to_local(self, self._whole[name], tensor, self.layout, self.rank)
                self.locals[name] = self._free(f"{name}/local")
                self._rename(cut, self.locals[name])
        return self.locals[name]

    def _take_weight(self, name: str, source: str, index: tuple[IndexSet, ...]) -> None:
        weight = self.analysis.graph.weights[source]
        self.part.held[name] = Held(name, weight, index or (None,) * len(weight.shape))

    def _rename(self, old: str, new: str) -> None:
        """Let the newest node make a tensor of that name."""
        node = self.part.nodes[-1]
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

    def _add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(op_type, inputs, [output], output, **attributes)
        self.part.nodes.append(node)
        return output

    def _communicate(self, op_type: str, name: str, output: str, **attributes: Any) -> str:
        node = helper.make_node(
            op_type, [name], [output], f"{op_type}/{output}", domain=DOMAIN, **attributes
        )
        self.part.nodes.append(node)
        return output

    def _count(self, op_type: str, tensor: Tensor, times: int = 1) -> None:
        nbytes = times * usual_bytes(self.analysis, tensor)
        is_state = op_type == "AllGather" and tensor.name in self.analysis.states
        self.part.moved.append(Transfer(op_type, nbytes, self.layout.size, is_state))

    def _free(self, name: str) -> str:
        """Return a name that nothing has yet: this one, or with a number behind it."""
        numbered = (f"{name}.{count}" for count in itertools.count(2))
        free = next(n for n in itertools.chain([name], numbered) if n not in self._taken)
        self._taken.add(free)
        return free


class LocalSite:
    """A site while it is written for one rank: what its rule sees of it."""

    def __init__(self, writer: _Writer, site: Site, is_partial: bool) -> None:
        self._writer = writer
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
        name = self._writer.local(tensor)
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
