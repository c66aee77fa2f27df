"""The graph of one rank of a mesh, made of its tensor-parallel part of the whole graph.

Of the nodes of the part a rank gets those of its stage. What another stage reads of theirs is sent
there, as the part has it: whole, or this rank's share. Each replica takes its rows of the batch
from the inputs, which all ranks are fed whole. At the end every rank gets the outputs whole: the
rows of all replicas are gathered, and the stage that has made an output sends it to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from ...errors import MeshError
from ...mesh import Mesh
from ...nodes import copied, references, renamed, with_inner
from ...opset import DOMAIN
from ...states import State
from ..analysis import Analysis, usual_bytes
from ..layout import Layout
from ..machine import Transfer
from ..part import Part
from ..relayout import MOVABLE
from ..rows import Rows, count_rows, give_rows, take_rows
from .batch import Batch
from .draft import Draft
from .stages import Stages, form_bytes, stages_of_nodes
from .stand_in import with_stand_ins


def place(
    analysis: Analysis,
    layout: Layout,
    part: Part,
    stages: Stages,
    batch: Batch | None,
    mesh: Mesh,
    rank: int,
) -> Part:
    """Return the graph of a rank, given the part of the whole graph at its place of tp.

    Raises MeshError where an output is nothing that can be sent.
    """
    if mesh.size == mesh.tp:
        return part
    return _Placement(analysis, layout, part, stages, batch, mesh, rank).placed()


class _Placement:
    """What is known of a rank's graph while it is written."""

    def __init__(
        self, analysis: Analysis, layout: Layout, part: Part, stages: Stages, batch: Batch | None,
        mesh: Mesh, rank: int,
    ) -> None:  # fmt: skip
        self.analysis, self.layout, self.whole = analysis, layout, part
        self.batch, self.mesh, self.at = batch, mesh, mesh.place(rank)
        self.part = replace(
            part, rank=rank, nodes=[], moved=[], constants=dict(part.constants), value_info={},
            states=(), origins=[], moved_for=[], given=[],
        )  # fmt: skip
        self.stage_of = stages_of_nodes(part, stages)
        self.is_idle = mesh.dp > 1 and batch is None and self.at.dp > 0
        taken = {name for node in part.nodes for name in (*references(node), *node.output)}
        self.draft = Draft(self.part, taken | set(analysis.tensors) | set(part.constants))
        self.outputs = {value.name: value for value in analysis.graph.outputs}
        self.names = self._renamings()
        nodes = with_stand_ins(analysis, layout, part, self.stage_of)
        self.nodes = [self._own(node) for node in nodes]
        self.maker = {name: k for k, node in enumerate(self.nodes) for name in node.output if name}

    def _renamings(self) -> dict[str, str]:
        """Name what is not yet, or no more, what inputs and outputs of the graph are called."""
        makers = {n: k for k, node in enumerate(self.whole.nodes) for n in node.output if n}
        names = dict[str, str]()
        for name in filter(makers.__contains__, self.outputs):
            is_of_stage = self.stage_of[makers[name]] is not None
            is_split = self.batch is not None and name in self.batch.outputs
            if is_split or (is_of_stage and (self.mesh.pp > 1 or self.batch is None)):
                names[name] = self.draft.free(f"{name}/made")
        for name in self.batch.inputs if self.batch else ():
            names[name] = self.draft.free(f"{name}/rows")
        return names

    def _own(self, node: NodeProto) -> NodeProto:
        """Return a node under the names of this rank, its collectives among the ranks of tp."""
        node = renamed(node, self.names)
        if not any(inner.domain == DOMAIN for inner in with_inner([node])):
            return node
        changed = copied(node)
        for inner in with_inner([changed]):
            if inner.domain == DOMAIN:
                inner.attribute.append(helper.make_attribute("axis_name", "tp"))
        return changed

    def placed(self) -> Part:
        """Write the graph."""
        used = {name for k in self._kept for name in references(self.nodes[k])}
        rows = self._take_rows(used)
        came = set[int]()
        for k in self._kept:
            self._receive(k, came)
            self.part.nodes.append(self.nodes[k])
            self._send(self.nodes[k])
        for name in self.outputs:
            self._give(name, rows)
        self.part.states = tuple(self._states())
        for transfer, site in zip(self.whole.moved, self.whole.moved_for, strict=True):
            self._count_if_here(transfer, site)
        return self._pruned()

    @cached_property
    def _kept(self) -> list[int]:
        """The nodes of this rank: those of its stage, and what they need of those of none."""
        is_mine = [stage == self.at.pp and not self.is_idle for stage in self.stage_of]
        needed = {self.names.get(name, name) for name in self.outputs}
        kept, sites = list[int](), set[int]()
        for k in reversed(range(len(self.nodes))):
            node, site = self.nodes[k], self.whole.origins[k]
            # What is sent at a node is received there by other ranks, and needed as the node is.
            is_read = not needed.isdisjoint(node.output) or (not node.output and site in sites)
            if is_mine[k] or (self.stage_of[k] is None and is_read):
                kept.append(k)
                sites.add(site)
                needed.update(references(node))
        return kept[::-1]

    @cached_property
    def _sent(self) -> dict[str, list[int]]:
        """The stages that each tensor is sent to, in the order in which tensors are made."""
        found = dict[str, list[int]]()
        for name in self.maker:
            source, readers = self._source(name), self._readers.get(name, set())
            if source is not None and not readers <= {source}:
                found[name] = sorted(s for s in readers if s not in (None, source))
        return found

    @cached_property
    def _readers(self) -> dict[str, set[int | None]]:
        """The stages that read a name; None among them for what each makes that needs it."""
        found: dict[str, set[int | None]] = {}
        for node, stage in zip(self.nodes, self.stage_of, strict=True):
            for name in references(node):
                found.setdefault(name, set()).add(stage)
        return found

    @cached_property
    def _tags(self) -> dict[str, int]:
        return {name: tag for tag, name in enumerate(self._sent)}

    @cached_property
    def _forms(self) -> dict[str, str]:
        return {self.names.get(form, form): name for form, name in self.whole.forms.items()}

    def _source(self, name: str) -> int | None:
        return self.stage_of[self.maker[name]] if name in self.maker else None

    def _receive(self, k: int, came: set[int]) -> None:
        """Receive all that this stage reads of the stages that a node reads of."""
        if self.stage_of[k] is None:
            return
        sources = {s for s in map(self._source, references(self.nodes[k])) if s is not None}
        for source in sorted(sources - came - {self.at.pp}):
            came.add(source)
            for name, stages in self._sent.items():
                if self._source(name) == source and self.at.pp in stages:
                    self._receive_one(name, source)

    def _receive_one(self, name: str, source: int) -> None:
        tensor = self.analysis.tensors[self._forms[name]]
        self.draft.communicate(
            "Recv", [self.draft.constant(np.array(source))], name, "pp",
            dtype=tensor.data_type, tag=self._tags[name],
        )  # fmt: skip
        if tensor.has_shape:
            dims: list[int | None] = [None] * tensor.rank
            kind = helper.make_tensor_type_proto(tensor.data_type, dims)
            self.part.value_info[name] = ValueInfoProto(name=name, type=kind)

    def _send(self, node: NodeProto) -> None:
        for name in node.output:
            for stage in self._sent.get(name, ()) if self._source(name) == self.at.pp else ():
                where = self.draft.constant(np.array(stage))
                self.draft.communicate("Send", [name, where], None, "pp", tag=self._tags[name])
                tensor = self.analysis.tensors[self._forms[name]]
                form = tensor.name if self.names.get(tensor.name) == name else name
                nbytes = form_bytes(self.analysis, self.layout, form, tensor)
                self.part.moved.append(Transfer("Send", nbytes, 2))

    def _take_rows(self, used: set[str]) -> list[Rows]:
        """Cut this replica's rows out of the inputs, and return those of what is no state."""
        found = list[Rows]()
        inputs = self.batch.inputs if self.batch else {}
        for name, dim in inputs.items():
            is_counted = name in self._counted
            if self.names[name] in used or is_counted:
                self.draft.base = name
                rows = count_rows(self.draft, name, dim, self.at.dp, self.mesh.dp)
                found += [rows] * is_counted
                if self.names[name] in used:
                    self.draft.rename(take_rows(self.draft, name, dim, rows), self.names[name])
        return found

    @cached_property
    def _counted(self) -> list[str]:
        """The inputs that tell how many rows there are: no states, which may be a rank's own."""
        inputs = list(self.batch.inputs) if self.batch else []
        states = set(self.analysis.states.values())
        return [name for name in inputs if name not in states] or inputs

    def _give(self, name: str, rows: Sequence[Rows]) -> None:
        """Give an output to all ranks, if it does not come about on each of them."""
        if name not in self.names or name not in self.outputs:
            return
        self.draft.base, made = name, self.names[name]
        stage = self.stage_of[self.maker[made]]
        is_here = stage in (None, self.at.pp)
        if is_here and self.batch is not None and name in self.batch.outputs:
            made = give_rows(self.draft, made, self.batch.outputs[name], rows)
            self._count("AllGather", name, self.mesh.dp)
        elif is_here and self.batch is None and self.mesh.dp > 1:
            made = self._broadcast("" if self.is_idle else made, name, 0, "dp")
        if self.mesh.pp > 1 and stage is not None:
            made = self._broadcast(made if is_here else "", name, stage, "pp")
        self.draft.rename(made, name)

    def _broadcast(self, operand: str, name: str, root: int, axis: str) -> str:
        kind = self.analysis.tensors[name].data_type
        kind = kind or self.outputs[name].type.tensor_type.elem_type
        if kind not in MOVABLE:
            raise MeshError(
                f"expected outputs that can be sent between ranks, but {name!r} is no tensor of "
                "numbers; run the model with tp alone"
            )
        own = {"dtype": kind} if not operand else {}
        output = self.draft.free(f"{name}/{axis}")
        self.draft.communicate("Broadcast", [operand], output, axis, root=root, **own)
        self._count("Broadcast", name, getattr(self.mesh, axis))
        return output

    def _states(self) -> Iterator[State]:
        """Yield the states that stay where they are: nothing of them is on other ranks."""
        own = {state.output: state for state in self.whole.states}
        for output, fed in self.analysis.states.items():
            tensors = self.analysis.tensors[output], self.analysis.tensors[fed]
            is_cut = any(self.layout.holds(axis) for tensor in tensors for axis in tensor.axes)
            if output in own:
                made, read = own[output].local_output, own[output].local_input
            elif is_cut and self.layout.size > 1:
                continue
            else:
                made, read = output, fed
            made, read = self.names.get(made, made), self.names.get(read, read)
            none = set[int | None]()
            stages = self._readers.get(self.names.get(fed, fed), none)
            stages = stages | self._readers.get(read, none)
            if stages != {self._source(made)} or not self._stays_in_its_rows(output, fed):
                continue
            is_here = stages == {self.at.pp} and not self.is_idle
            yield State(output, fed, *((made, read) if is_here else ("", "")))

    def _stays_in_its_rows(self, output: str, fed: str) -> bool:
        if self.batch is None:
            return True
        given, taken = self.batch.outputs.get(output), self.batch.inputs.get(fed)
        return given == taken and fed not in self._counted

    def _count(self, op_type: str, name: str, size: int) -> None:
        tensor = self.analysis.tensors[name]
        is_state = name in self.analysis.states
        nbytes = usual_bytes(self.analysis, tensor) if tensor.data_type else 0
        self.part.given.append(Transfer(op_type, nbytes, size, is_state))

    def _count_if_here(self, transfer: Transfer, site: int) -> None:
        if site in self._sites:
            self.part.moved.append(transfer)

    @cached_property
    def _sites(self) -> set[int]:
        return {self.whole.origins[k] for k in self._kept}

    def _declared(self, value: ValueInfoProto) -> ValueInfoProto:
        """Return what is known of the sizes of a value; a replica has others by the same name."""
        changed = ValueInfoProto()
        changed.CopyFrom(value)
        changed.name = self.names.get(value.name, value.name)
        for dim in changed.type.tensor_type.shape.dim if self.mesh.dp > 1 else ():
            if dim.HasField("dim_param"):
                dim.Clear()
        return changed

    def _pruned(self) -> Part:
        """Return the part without what no node reads."""
        used = {name for node in self.part.nodes for name in references(node)}
        for name, value in self.whole.value_info.items():
            if self.names.get(name, name) in used:
                self.part.value_info[self.names.get(name, name)] = self._declared(value)
        self.part.constants = {k: v for k, v in self.part.constants.items() if k in used}
        return self.part.pruned(set(self.outputs))
