"""The tensors of one rank's graph: whole, in part or as a summand, and how one form gives another.

A name of the whole graph keeps its meaning: `x` is the whole tensor x, `x/local` this rank's part
of it, `x/partial` this rank's summand, `x/rows` its rows.
"""

from __future__ import annotations

from ..weights import IndexSet
from . import relayout
from .analysis import Analysis
from .axes import Axis
from .declared import declared
from .emission import Emission
from .layout import Layout
from .part import Held
from .partials import carried
from .rows import cut_rows
from .scopes import Form
from .site import Tensor

WHOLE = Layout(frozenset(), 1)
"""The layout of whole tensors."""


class Holding(Emission):
    """Knows under which names a tensor is held so far, and makes it what a node asks for."""

    def __init__(self, analysis: Analysis, layout: Layout, rank: int) -> None:
        super().__init__(analysis, layout, rank)
        for value in analysis.graph.inputs:
            self.scopes.hold("whole", value.name, value.name)
        self._carried = carried(analysis, layout)
        self._cut_rows = dict[tuple[str, int], str]()

    @property
    def forms(self) -> dict[str, str]:
        """The tensors of the whole graph by the names that this rank has them under."""
        held = [*self.scopes.outermost.names.items()]
        cut = {name: tensor for (tensor, _), name in self._cut_rows.items()}
        return {name: tensor for (_, tensor), name in held} | cut

    @property
    def locals(self) -> dict[str, str]:
        """Names of this rank's parts of tensors, of those outside of bodies."""
        names = self.scopes.outermost.names.items()
        return {tensor: name for (form, tensor), name in names if form == "local"}

    def whole(self, tensor: Tensor) -> str:
        """Return the name of a whole tensor, gathered if this rank has its part only."""
        name = tensor.name
        if self.scopes.name("whole", name):
            return name
        if tensor.is_weight:
            return self._take_weight("whole", name, tensor, (None,) * tensor.rank)
        base, self.base = self.base, name
        dim = self.layout.row_dim(name)
        with self.scopes.around("local" if dim is None else "rows", name) as own:
            if dim is not None:
                self.rename(self.all_gather(own, dim), name)
            else:
                self.rename(relayout.to_whole(self, own, tensor, self.layout, self.rank), name)
            self.scopes.hold("whole", name, name)
            self.declare(name, tensor)
            self.count("AllGather", tensor)
        self.base = base
        return name

    def local(self, tensor: Tensor) -> str:
        """Return the name of this rank's part of a tensor; all of it where it is not sharded."""
        if not self.is_sharded(tensor):
            return self.whole(tensor)
        if held := self.scopes.name("local", tensor.name):
            return held
        name = self.free(f"{tensor.name}/local")
        if tensor.is_weight:
            index = tuple(self.layout.indices(axis, self.rank) for axis in tensor.axes)
            return self._take_weight("local", name, tensor, index)
        with self.scopes.around("whole", tensor.name) as whole:
            self.rename(relayout.to_local(self, whole, tensor, self.layout, self.rank), name)
            self.scopes.hold("local", tensor.name, name)
            self.declare(name, tensor)
        return name

    def rows(self, tensor: Tensor, axis: Axis) -> str:
        """Return the name of this rank's rows of a tensor, or of all of one that has none."""
        dim = tensor.dim_of(axis)
        if dim is None:
            return self.whole(tensor)
        if self.layout.row_dim(tensor.name) == dim:
            held = self.scopes.name("rows", tensor.name)
            assert held is not None
            return held
        if (tensor.name, dim) not in self._cut_rows:
            whole, self.base = self.whole(tensor), tensor.name
            cut = cut_rows(self, whole, dim, self.rank, self.layout.size)
            self.rename(cut, name := self.free(f"{tensor.name}/rows"))
            self._cut_rows[tensor.name, dim] = name
        return self._cut_rows[tensor.name, dim]

    def _take_weight(
        self, form: Form, name: str, tensor: Tensor, index: tuple[IndexSet, ...]
    ) -> str:
        weight = self.analysis.graph.weights[tensor.name]
        self.part.held[name] = Held(name, weight, index or (None,) * len(weight.shape))
        self.scopes.outermost.names[form, tensor.name] = name
        return name

    def hold(self, tensor: Tensor, name: str) -> None:
        """Note what the rank has of an output: all of it, its part, or its rows."""
        form: Form = "local" if self.is_sharded(tensor) else "whole"
        is_cut = self.layout.row_dim(tensor.name) is not None
        self.scopes.hold("rows" if is_cut else form, tensor.name, name)
        self.declare(name, tensor)

    def hold_partial(self, out: Tensor, name: str, op: str, is_widened: bool = False) -> None:
        """Note this rank's part of an output, to be combined now or where it meets another."""
        if out.name in self._carried:
            self.scopes.hold("partial", out.name, name)
            self.declare(name, out)
        else:
            self.hold(out, self._complete(name, out, op, is_widened))

    def _complete(self, name: str, out: Tensor, op: str, is_widened: bool) -> str:
        """Combine the ranks' parts of an output, or this rank's rows of them."""
        dim = self.layout.scattered.get(out.name)
        final = self.name_of(out) if dim is None else self.free(f"{out.name}/rows")
        reduced = self.free(f"{out.name}/float32") if is_widened else final
        op_type, along = ("AllReduce", {}) if dim is None else ("ReduceScatter", {"dim": dim})
        self.communicate(op_type, name, reduced, op=op, **along)
        self.count(op_type, out, 2 if is_widened else 1)
        if is_widened:
            self.add("Cast", [reduced], final, to=out.data_type)
        return final

    def name_of(self, tensor: Tensor, is_partial: bool = False) -> str:
        """Return a name for what this rank makes of a tensor."""
        if is_partial:
            return self.free(f"{tensor.name}/partial")
        return self.free(f"{tensor.name}/local") if self.is_sharded(tensor) else tensor.name

    def declare(self, name: str, tensor: Tensor) -> None:
        """Tell of a tensor what is known of its sizes."""
        if tensor.data_type:
            layout = WHOLE if name == tensor.name else self.layout
            value = declared(name, tensor, self.symbols, layout, self.rank)
            dim = self.layout.row_dim(tensor.name)
            if dim is not None and name == self.scopes.name("rows", tensor.name):
                value.type.tensor_type.shape.dim[dim].Clear()
            self.scopes.inner.value_info[name] = value

    def is_sharded(self, tensor: Tensor) -> bool:
        """Whether ranks have parts of it."""
        return any(self.layout.holds(axis) for axis in tensor.axes)
