"""The batch: which dims of the inputs replicas can split among themselves, and what comes of it.

A replica runs the graph as it is on some rows of the batch. That is right where each tensor is, on
the replica, one of these:

    same       what it is on one rank
    rows       the replica's rows of it
    sizes      whole numbers made of sizes, in which the replica's batch stands for the whole one
    numbers    the numbers of the rows, counted from the replica's first
    unknown    anything else, of which no more is read than its sizes

The axes say whether rows pass through a node: its rule must neither need the batch whole nor sum
over it. Where a size comes from is found by inferring all shapes with another batch: what is then
of another size has the batch, and a shape that contradicts itself was given by a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
from onnx import ValueInfoProto

from ..errors import MeshError
from ..nodes import draws, label, references
from ..shapes import Shapes, dims, infer
from .analysis import Analysis
from .axes import ONE, Axis, atoms, find, leaves
from .site import Site

OTHER = 307
"""The size of the batch in the inference that it is compared with: a prime not in LARGE."""

OLDEST = 10
"""The first opset whose Slice takes bounds that are computed."""


class Kind(Enum):
    """What a tensor is on a replica."""

    SAME = "same"
    ROWS = "rows"
    SIZES = "sizes"
    NUMBERS = "numbers"
    UNKNOWN = "unknown"


SAME, ROWS, SIZES, NUMBERS, UNKNOWN = Kind

COUNTED = {
    "Abs", "Add", "Cast", "Concat", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "ReduceMax",
    "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze",
    "Where",
}  # fmt: skip
"""Operators that make sizes of sizes."""

FILLED = {"ConstantOfShape", "Expand", "Tile"}
"""Operators that make alike rows, as many as they are told."""

RENUMBERED = {"Cast", "Expand", "Identity", "Reshape", "Transpose", "Unsqueeze"}
"""Operators that leave numbers of rows what they are."""

RESIZED = {
    "CenterCropPad": {1}, "Expand": {1}, "Reshape": {1}, "Resize": {2, 3}, "Slice": {1, 2, 3, 4},
}  # fmt: skip
"""Inputs that are sizes, by operator."""

NEEDED, GIVEN = "it needs all rows", "its sizes do not follow the batch"

TRIES = 4
"""Groups of dims that are looked at: shapes are inferred anew for each."""


class Batch(NamedTuple):
    """Dims that replicas split."""

    inputs: dict[str, int]
    outputs: dict[str, int]


class Found(NamedTuple):
    """The batch, or why there is none."""

    batch: Batch | None
    why: str = ""


def find_batch(analysis: Analysis) -> Found:
    """Return the batch of a graph: of all dims that are one, the first in the order of dims."""
    if analysis.graph.opsets.get("", 1) < OLDEST:
        return Found(None, f"its opset is older than {OLDEST}")
    reasons = list[str]()
    for places in islice(_groups(analysis), TRIES):
        found = _Flow(analysis, places).batch()
        if found.batch is not None:
            return found
        reasons.append(found.why)
    return Found(None, reasons[0] if reasons else "no input has a dim of more than one row")


def asked_batch(analysis: Analysis, asked: str) -> Batch:
    """Return the batch that a person names: a dim of all inputs, or NAME=DIM,NAME=DIM.

    What depends on it is not proved. Raises MeshError for what no input has.
    """
    inputs = dict(_asked(analysis, asked))
    flow = _Flow(analysis, inputs)
    varying = {value.name: flow.varying(value.name) for value in analysis.graph.outputs}
    for name, found in varying.items():
        if len(found) > 1:
            raise MeshError(f"--batch-dim {asked}: output {name!r} has it in dims {found}")
    return Batch(inputs, {name: found[0] for name, found in varying.items() if found})


def _asked(analysis: Analysis, asked: str) -> Iterator[tuple[str, int]]:
    ranks = {value.name: len(dims(value)) for value in analysis.graph.inputs}
    if asked.lstrip("-").isdecimal():
        pairs = [(name, asked) for name, rank in ranks.items() if rank > int(asked)]
        if not pairs:
            raise MeshError(f"--batch-dim {asked}: no input has such a dim")
    else:
        pairs = [(name, dim) for name, _, dim in (p.rpartition("=") for p in asked.split(","))]
    for name, dim in pairs:
        if name not in ranks or not dim.lstrip("-").isdecimal():
            raise MeshError(
                f"expected --batch-dim to be a dim, or input=dim with inputs among "
                f"{', '.join(ranks)}, got {asked!r}"
            )
        if not -ranks[name] <= int(dim) < ranks[name]:
            raise MeshError(f"--batch-dim {asked}: {name!r} has dims 0 to {ranks[name] - 1}")
        yield name, int(dim) % ranks[name]


def _groups(analysis: Analysis) -> Iterator[dict[str, int]]:
    """Yield dims of inputs that are one: by name, or by their axis."""
    seen = set[tuple[str, int]]()
    inputs = analysis.graph.inputs
    places = [(v.name, dim) for v in inputs for dim in range(len(dims(v)))]
    for place in sorted(places, key=lambda place: place[1]):
        if place in seen or _axis(analysis, place) is None:
            continue
        group, border = set[tuple[str, int]](), {place}
        while border:
            group |= border
            keys = {key for each in group for key in _keys(analysis, each)}
            border = {p for p in places if keys & set(_keys(analysis, p))} - group
        seen |= group
        if len({name for name, _ in group}) == len(group):
            yield dict(sorted(group))


def _keys(analysis: Analysis, place: tuple[str, int]) -> Iterator[object]:
    """Yield what a dim is known by: its name, and its axis."""
    name, dim = place
    value = next(v for v in analysis.graph.inputs if v.name == name)
    size = dims(value)[dim]
    axis = _axis(analysis, place)
    if axis is not None:
        yield axis
        if isinstance(size, str):
            yield size


def _axis(analysis: Analysis, place: tuple[str, int]) -> Axis | None:
    tensor = analysis.tensors[place[0]]
    axis = tensor.axes[place[1]] if place[1] < tensor.rank else None
    return None if axis is None else find(axis)


class _Flow:
    """What becomes of the tensors of a graph if some dims of its inputs are split."""

    def __init__(self, analysis: Analysis, places: Mapping[str, int]) -> None:
        self.analysis, self.places = analysis, places
        self.first = analysis.measured.first
        self.other = _with_batch(analysis, places)
        self.kinds = {value.name: SAME for value in analysis.graph.inputs}
        self.kinds |= dict.fromkeys(places, ROWS)
        self.why = dict[str, str]()

    def batch(self) -> Found:
        """Follow the batch from the inputs to the outputs."""
        for site in self.analysis.sites:
            kind = self._kind(site)
            self.kinds |= {n: self._checked(site, n, kind) for n in site.node.output if n}
        outputs = dict[str, int]()
        for value in self.analysis.graph.outputs:
            kind = self.kinds.get(value.name, SAME)
            if kind is ROWS and (dim := self._outermost(value.name)) is not None:
                outputs[value.name] = dim
            elif kind is not SAME:
                name, dim = next(iter(self.places.items()))
                why = self.why.get(value.name, f"output {value.name!r} is made of its size")
                return Found(None, f"dim {dim} of {name!r} does not pass: {why}")
        if not outputs:
            return Found(None, "no output depends on what is fed")
        return Found(Batch(dict(self.places), outputs))

    def varying(self, name: str) -> list[int]:
        """Return the dims of a tensor that have the batch."""
        before, after = self.first.shapes.get(name), self.other.shapes.get(name)
        if before is None or after is None or len(before) != len(after):
            return []
        return [dim for dim in range(len(before)) if before[dim] != after[dim]]

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
        kinds = [self.kinds.get(name, SAME) for name in references(site.node)]
        op = site.node.op_type if site.node.domain in ("", "ai.onnx") else ""
        given = set(kinds)
        if draws(site.node):
            return UNKNOWN
        if op in ("Shape", "Size"):
            return SIZES
        if given <= {SAME}:
            return SAME
        if UNKNOWN in given:
            return UNKNOWN
        if given <= {SAME, SIZES}:
            return self._of_sizes(site, op, kinds)
        if NUMBERS in given:
            return self._of_numbers(site, op, kinds)
        return ROWS if self._passes(site, op, kinds) else UNKNOWN

    def _of_sizes(self, site: Site, op: str, kinds: Sequence[Kind]) -> Kind:
        if op in FILLED and (op == "ConstantOfShape" or kinds[0] is SAME):
            return ROWS
        if op == "Range" and kinds[0] is kinds[2] is SAME and self._counts_from_zero(site):
            return NUMBERS
        return SIZES if op in COUNTED else UNKNOWN

    def _counts_from_zero(self, site: Site) -> bool:
        start, step = site.constant(0), site.constant(2)
        return start is not None and step is not None and (int(start), int(step)) == (0, 1)

    def _of_numbers(self, site: Site, op: str, kinds: Sequence[Kind]) -> Kind:
        """Return what comes of numbers of rows; as the first of several they name a row."""
        if op in RENUMBERED and set(kinds[1:]) <= {SAME, SIZES} and kinds[0] is NUMBERS:
            return NUMBERS
        last = site.output().rank - 1
        if op == "Concat" and kinds[0] is NUMBERS and NUMBERS not in kinds[1:]:
            is_last = site.attribute("axis") % (last + 1) == last
            return NUMBERS if is_last and site.tensor(0).shape[last] == ONE else UNKNOWN
        if op in ("Gather", "GatherND") and kinds == [ROWS, NUMBERS]:
            axis = site.attribute("axis", 0) + site.attribute("batch_dims", 0)
            is_first = self.varying(site.tensor(0).name) == [0] and axis == 0
            return ROWS if is_first else UNKNOWN
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
        summed = {atom for entry in site.contracted for atom in atoms(entry.axis)}
        return self.atoms.isdisjoint(site.whole_atoms | summed)

    def _checked(self, site: Site, name: str, kind: Kind) -> Kind:
        """Return what a tensor is, its sizes looked at, and note why nothing is known of it."""
        varying = self.varying(name)
        if kind is SIZES and self._is_fixed(name):
            return SAME
        is_right = not varying
        if kind in (ROWS, NUMBERS):
            is_right = len(varying) == 1 and self._is_split(name, varying[0])
        if kind is not UNKNOWN and is_right:
            return kind
        before = next((self.why[n] for n in references(site.node) if n in self.why), None)
        own = site.obstacle or (GIVEN if kind in (ROWS, NUMBERS) else NEEDED)
        self.why[name] = before or f"{label(site.node)}: {own}"
        return UNKNOWN

    def _is_fixed(self, name: str) -> bool:
        """Say whether the contents of a tensor are known, and the same for another batch."""
        before, after = self.first.values.get(name), self.other.values.get(name)
        return before is not None and after is not None and np.array_equal(before, after)

    def _is_split(self, name: str, dim: int) -> bool:
        """Say whether the batch is one factor of a dim, and none of any other."""
        for place, axis in enumerate(self.analysis.tensors[name].axes):
            row = [find(leaf) for leaf in leaves(axis)] if axis is not None else []
            if sum(leaf in self.atoms for leaf in row) != (place == dim):
                return False
            sums = [leaf for leaf in row if leaf.kind == "sum"]
            if not self.atoms.isdisjoint(atom for leaf in sums for atom in atoms(leaf)):
                return False
        return True


def _with_batch(analysis: Analysis, places: Mapping[str, int]) -> Shapes:
    """Return all shapes with another batch."""
    graph = analysis.graph
    sizes = dict(analysis.measured.sizes)
    inputs = list[ValueInfoProto]()
    for value in graph.inputs:
        changed = ValueInfoProto()
        changed.CopyFrom(value)
        if value.name in places:
            size = dims(value)[places[value.name]]
            if isinstance(size, str):
                sizes[size] = OTHER
            else:
                changed.type.tensor_type.shape.dim[places[value.name]].dim_value = OTHER
        inputs.append(changed)
    return infer(replace(graph, inputs=tuple(inputs)), sizes)
