"""What becomes of the tensors of a graph where a replica has some rows of its inputs.

The replica runs the graph as it is. Each tensor is then one of these:

    same       what it is on one rank
    rows       the replica's rows of it
    sizes      whole numbers made of sizes, in which the replica's batch stands for the whole one
    numbers    the numbers of the rows, counted from the replica's first
    places     such numbers as the first of several that name an element
    unknown    anything else, of which no more is read than its sizes
    lost       what has sizes, or is made of some, that may jump between one batch and another

The axes say whether rows pass through a node: its rule must neither need the batch whole nor sum
over it. Where a size comes from is found by inferring all shapes with another batch: what is then
of another size has the batch, and a shape that contradicts itself was given by a constant. A third
batch, a short one, tells what grows with the batch from what does so at two sizes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from fractions import Fraction
from functools import cached_property

import numpy as np
from onnx import ValueInfoProto

from ...nodes import draws, label, references
from ...shapes import Shapes, dims, infer
from ..analysis import Analysis, first_sizes
from ..axes import ONE, Axis, atoms, find, leaves
from ..site import Site
from .counted import is_smooth

OTHER = 331
"""The size of the batch in the inference that it is compared with: a prime not in LARGE."""

SHORT = (2, 4)
"""Sizes of the batch in the third inference: the first that it does not have already."""


class Kind(Enum):
    """What a tensor is on a replica."""

    SAME = "same"
    ROWS = "rows"
    SIZES = "sizes"
    NUMBERS = "numbers"
    PLACES = "places"
    UNKNOWN = "unknown"
    LOST = "lost"


SAME, ROWS, SIZES, NUMBERS, PLACES, UNKNOWN, LOST = Kind

FILLED = {"ConstantOfShape", "Expand", "Tile"}
"""Operators that make alike rows, as many as they are told."""

RENUMBERED = {"Cast", "Expand", "Identity", "Reshape", "Transpose", "Unsqueeze"}
"""Operators that leave numbers of rows what they are."""

RESIZED = {
    "CenterCropPad": {1}, "Expand": {1}, "Reshape": {1}, "Resize": {2, 3}, "Slice": {1, 2, 3, 4},
}  # fmt: skip
"""Inputs that are sizes, by operator."""

CUTTING = {
    "AveragePool", "CenterCropPad", "Conv", "LpPool", "MaxPool", "Resize", "Slice", "Split",
    "Upsample",
}  # fmt: skip
"""Operators whose sizes may be rounded or limited."""

TO_THE_END = 2**31 - 1
"""Ends of slices from here on are those of the dim."""

NEEDED, GIVEN = "it needs all rows", "its sizes do not follow the batch"


class Flow:
    """What becomes of the tensors of a graph if some dims of its inputs are split."""

    def __init__(self, analysis: Analysis, places: Mapping[str, int]) -> None:
        self.analysis, self.places = analysis, places
        self.first = analysis.measured.first
        name, dim = next(iter(places.items()))
        self.rows = self.first.shapes[name][dim]
        short = next(size for size in SHORT if size != self.rows)
        self.batches = (self.rows, OTHER, short)
        self.other, self.short = (_with_batch(analysis, places, n) for n in (OTHER, short))
        self.kinds = {value.name: SAME for value in analysis.graph.inputs}
        self.kinds |= dict.fromkeys(places, ROWS)
        self.why = dict[str, str]()

    def outputs(self) -> dict[str, int] | str:
        """Return the dims of outputs that have the batch, or why it does not come to them."""
        for site in self.analysis.outermost:
            kind = self._kind(site)
            self.kinds |= {n: self._checked(site, n, kind) for n in site.node.output if n}
        found = dict[str, int]()
        for value in self.analysis.graph.outputs:
            kind = self.kinds.get(value.name, SAME)
            if kind is ROWS and (dim := self._outermost(value.name)) is not None:
                found[value.name] = dim
            elif kind is not SAME:
                name, dim = next(iter(self.places.items()))
                why = self.why.get(value.name, f"output {value.name!r} is made of its size")
                return f"dim {dim} of {name!r} does not pass: {why}"
        return found or "no output depends on what is fed"

    def is_known(self, name: str) -> bool:
        """Say whether the shape of a tensor is known, for this batch and another."""
        return name in self.first.shapes and name in self.other.shapes

    def varying(self, name: str) -> list[int]:
        """Return the dims of a tensor that have the batch."""
        before, after = self.first.shapes.get(name), self.other.shapes.get(name)
        if before is None or after is None or len(before) != len(after):
            return []
        return [dim for dim in range(len(before)) if before[dim] != after[dim]]

    def is_inner(self, name: str) -> bool:
        """Say whether an output is known to have the batch as another than the slowest factor."""
        axes = [self.analysis.tensors[name].axes[dim] for dim in self.varying(name)]
        batch = [
            axis for axis in axes if axis is not None and not self.atoms.isdisjoint(atoms(axis))
        ]
        return bool(batch) and self._outermost(name) is None

    @cached_property
    def atoms(self) -> set[Axis]:
        """The atoms that are the batch: dims that have nothing but it."""
        found = set[Axis]()
        for tensor in self.analysis.tensors.values():
            for dim in self.varying(tensor.name):
                axis = tensor.axes[dim] if dim < tensor.rank else None
                if axis is not None and find(axis).kind == "atom":
                    found.add(find(axis))
        return found

    def _outermost(self, name: str) -> int | None:
        """Return the dim of an output whose slowest factor is the batch."""
        tensor, varying = self.analysis.tensors[name], self.varying(name)
        if len(varying) != 1:
            return None
        axis = tensor.axes[varying[0]]
        row = leaves(axis) if axis is not None else []
        return varying[0] if row and find(row[0]) in self.atoms else None

    def _kind(self, site: Site) -> Kind:
        """Return what a site makes."""
        captured = [name for name in references(site.node) if name not in site.node.input]
        kinds = [self.kinds.get(name, SAME) for name in (*site.node.input, *captured)]
        op = site.node.op_type if site.node.domain in ("", "ai.onnx") else ""
        given = set(kinds)
        if LOST in given:
            return LOST
        if draws(site.node):
            return UNKNOWN
        if op in ("Shape", "Size"):
            return SIZES
        if given <= {SAME}:
            return SAME
        if UNKNOWN in given or site.bodies:
            return LOST if site.bodies else UNKNOWN
        if given <= {SAME, SIZES}:
            return self._of_sizes(site, op, kinds)
        if NUMBERS in given or PLACES in given:
            return self._of_numbers(site, op, kinds)
        return ROWS if self._passes(site, op, kinds) else UNKNOWN

    def _of_sizes(self, site: Site, op: str, kinds: Sequence[Kind]) -> Kind:
        if op in FILLED and (op == "ConstantOfShape" or kinds[0] is SAME):
            return ROWS
        if op == "Range" and kinds[0] is kinds[2] is SAME and self._counts_from_zero(site):
            return NUMBERS
        names = [*site.node.input, *(site.node.output if op == "Cast" else ())]
        settings = [[each.values.get(n) for n in names if n] for each in self.settings]
        return SIZES if is_smooth(op, self.batches, settings) else LOST

    @property
    def settings(self) -> tuple[Shapes, Shapes, Shapes]:
        """All shapes for each of the three batches."""
        return self.first, self.other, self.short

    def _counts_from_zero(self, site: Site) -> bool:
        start, step = site.constant(0), site.constant(2)
        return start is not None and step is not None and (int(start), int(step)) == (0, 1)

    def _of_numbers(self, site: Site, op: str, kinds: Sequence[Kind]) -> Kind:
        """Return what comes of numbers of rows, alone or with others."""
        first, *rest = kinds
        if first is NUMBERS and op in RENUMBERED and {*rest} <= {SAME, SIZES}:
            return NUMBERS
        if first is NUMBERS and op == "Concat" and {*rest} <= {SAME, ROWS}:
            last = site.output().rank - 1
            is_last = site.attribute("axis") % (last + 1) == last
            return PLACES if is_last and site.tensor(0).shape[last] == ONE else UNKNOWN
        if first is ROWS and self.varying(site.tensor(0).name) == [0]:
            is_alone = site.tensor(1).shape[-1:] == (ONE,)
            looks_up = {
                "Gather": rest == [NUMBERS] and site.attribute("axis", 0) == 0,
                "GatherND": (rest == [PLACES] or (rest == [NUMBERS] and is_alone))
                and site.attribute("batch_dims", 0) == 0,
            }
            return ROWS if looks_up.get(op, False) else UNKNOWN
        return UNKNOWN

    def _passes(self, site: Site, op: str, kinds: Sequence[Kind]) -> bool:
        """Say whether a node makes rows of rows."""
        if site.obstacle is not None:
            return False
        for place, kind in enumerate(kinds):
            if kind is SIZES and place not in RESIZED.get(op, ()):
                return False
        if op == "Squeeze" and not site.has(1) and site.attribute("axes") is None:
            return False  # a replica may have one row, and it would lose that dim
        if op == "Slice" and self._may_end(site):
            return False
        fixed = [t for t, kind in zip(site.inputs, kinds, strict=False) if t and kind is SAME]
        if any(not self.atoms.isdisjoint(tensor.atoms) for tensor in fixed):
            return False  # a weight has as many rows as the whole batch
        return self.atoms.isdisjoint(site.whole_atoms | site.slid)

    def _may_end(self, site: Site) -> bool:
        """Say whether a slice may end within a batch that is long enough."""
        ends = site.constant(2) if site.has(2) else None
        axes = site.constant(3) if site.has(3) else None
        if ends is None:
            return False
        cut = range(len(ends)) if axes is None else axes % site.tensor(0).rank
        varying = self.varying(site.tensor(0).name)
        return any(dim in varying and end < TO_THE_END for dim, end in zip(cut, ends, strict=True))

    def _checked(self, site: Site, name: str, kind: Kind) -> Kind:
        """Return what a tensor is, its sizes looked at, and note why nothing is known of it."""
        varying = self.varying(name)
        if kind is SIZES and self._is_fixed(name):
            return SAME
        is_right = not varying
        if kind in (ROWS, NUMBERS, PLACES):
            is_right = len(varying) == 1 and self._is_split(name, varying[0])
        if kind not in (UNKNOWN, LOST) and is_right:
            return kind
        before = next((self.why[n] for n in references(site.node) if n in self.why), None)
        own = site.obstacle or (NEEDED if kind is UNKNOWN else GIVEN)
        self.why[name] = before or f"{label(site.node)}: {own}"
        return LOST if kind is LOST or self._cuts(site) else UNKNOWN

    def _cuts(self, site: Site) -> bool:
        """Say whether a node may cut the batch at a number of rows that does not follow it."""
        has_batch = any(tensor and self.varying(tensor.name) for tensor in site.inputs)
        return has_batch and site.node.op_type in CUTTING

    def _is_fixed(self, name: str) -> bool:
        """Say whether the contents of a tensor are known, and the same for every batch."""
        first, *rest = (each.values.get(name) for each in self.settings)
        return first is not None and all(
            array is not None and np.array_equal(first, array) for array in rest
        )

    def _is_split(self, name: str, dim: int) -> bool:
        """Say whether the batch is one factor of a dim, and none of any other."""
        shapes = [each.shapes.get(name, ()) for each in self.settings]
        if any(len(shape) <= dim for shape in shapes):
            return False
        shares = {Fraction(s[dim], rows) for s, rows in zip(shapes, self.batches, strict=True)}
        if len(shares) > 1:
            return False
        for place, axis in enumerate(self.analysis.tensors[name].axes):
            row = [find(leaf) for leaf in leaves(axis)] if axis is not None else []
            if sum(leaf in self.atoms for leaf in row) != (place == dim):
                return False
            sums = [leaf for leaf in row if leaf.kind == "sum"]
            if not self.atoms.isdisjoint(atom for leaf in sums for atom in atoms(leaf)):
                return False
        return True


def _with_batch(analysis: Analysis, places: Mapping[str, int], rows: int) -> Shapes:
    """Return all shapes with another batch."""
    graph = analysis.graph
    sizes = first_sizes(graph)
    inputs = list[ValueInfoProto]()
    for value in graph.inputs:
        changed = ValueInfoProto()
        changed.CopyFrom(value)
        if value.name in places:
            size = dims(value)[places[value.name]]
            if isinstance(size, str):
                sizes[size] = rows
            else:
                changed.type.tensor_type.shape.dim[places[value.name]].dim_value = rows
        inputs.append(changed)
    return infer(replace(graph, inputs=tuple(inputs)), sizes)
