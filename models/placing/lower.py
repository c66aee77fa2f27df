"""A graph whose tensors are placed on devices, as the graph that one rank runs.

Nodes are taken in order. Each is computed where its tensors are asked to lie; what lies elsewhere
is moved first, and a result that is asked for elsewhere is moved after. A tensor of which nothing
is said lies as the node that made it left it. What is fed is whole on every device, and so are the
results in the end; weights are cut as they are read, and never sent. Every rank takes the same
decisions, and writes the nodes that are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import NodeProto

from ..errors import PlacementError
from ..graph import Graph
from ..nodes import draws, label, references, subgraphs
from ..sharding.analysis import Measured, tie
from ..sharding.part import Held, Part
from ..sharding.site import Site, Tensor
from .choosing import Wish, choose
from .cuts import Cuts, shape_of
from .moving import move
from .node import compute, outputs
from .placement import Placement
from .rank_graph import RankGraph
from .resharding import route


@dataclass(frozen=True)
class Intent:
    """What is said of one node."""

    inputs: Mapping[int, Placement] = field(default_factory=dict)
    """by position"""
    outputs: Mapping[int, Placement] = field(default_factory=dict)
    devices: tuple[int, ...] | None = None
    """where it is computed if no tensor says so"""

    @property
    def said(self) -> tuple[Placement, ...]:
        """The placements of the inputs, or else of the outputs."""
        return tuple(self.inputs.values()) or tuple(self.outputs.values())


NOTHING = Intent()


def lower(
    graph: Graph, measured: Measured, intents: Mapping[str, Intent], size: int, rank: int
) -> Part:
    """Return the graph of one of `size` ranks; intents are by the first output of their node.

    Raises PlacementError for a placement that breaks a rule, with the node.
    """
    lowering = _Lowering(graph, measured, size, rank)
    for node in graph.nodes:
        made = next(name for name in node.output if name)
        site = _site(graph, node, measured)
        try:
            lowering.write(site, intents.get(made, NOTHING))
        except PlacementError as error:
            raise PlacementError(f"{label(node)}: {error}") from None
    for value in graph.outputs:
        lowering.publish(value.name)
    return lowering.part


def _site(graph: Graph, node: NodeProto, measured: Measured) -> Site:
    """Return a node by itself as its rule sees it; of one with bodies only what lies outside."""
    (site,) = tie(replace(graph, nodes=(node,), inputs=(), outputs=()), measured).outermost
    site.needs_whole += site.gathered  # by a loop, which is no node that has a place
    if not site.bodies:
        return site
    return replace(
        site,
        inputs=site.inputs[: len(node.input)],
        outputs=site.outputs[: len(node.output)],
        bodies=(),
        obstacle="its bodies are run whole",
    )


class _Lowering:
    """Where each tensor lies, and under which name this rank has its part."""

    def __init__(self, graph: Graph, measured: Measured, size: int, rank: int) -> None:
        self._graph, self._measured = graph, measured
        self._every = Placement.everywhere(range(size))
        names = {name for node in graph.nodes for name in (*references(node), *node.output)}
        self._out = RankGraph(rank, names | {value.name for value in graph.inputs})
        self._tensors: dict[str, Tensor] = {}
        self._places: dict[str, dict[Placement, str]] = {
            value.name: {self._every: value.name} for value in graph.inputs
        }
        """the first is where it lies as long as nothing is said"""
        self._published = {value.name for value in graph.inputs}
        self._held: dict[str, Held] = {}

    @property
    def part(self) -> Part:
        """The rank's graph."""
        out = self._out
        made = Part(out.rank, out.nodes, self._held, out.constants, out.value_info)
        return made.pruned({value.name for value in self._graph.outputs})

    def write(self, site: Site, intent: Intent) -> None:
        """Add what this rank does for a node."""
        self._out.base = next(name for name in site.node.output if name)
        tensors = [tensor for tensor in (*site.inputs, *site.outputs) if tensor is not None]
        self._tensors |= {tensor.name: tensor for tensor in tensors}
        cuts = self._cuts(site, intent)
        names = {
            tensor.name: self._at(tensor, cuts.placement(tensor))
            for tensor in site.inputs
            if tensor is not None
        }
        if any(subgraphs(site.node)):
            for name in set(references(site.node)).difference(site.node.input):
                self.publish(name)
        asked = {
            tensor.name: placement
            for position, placement in intent.outputs.items()
            if (tensor := site.outputs[position]) is not None
        }
        made = compute(self._out, cuts, names, asked)
        for name, placement in outputs(cuts, asked).items():
            self._places[name] = {placement: made.get(name, "")}
        for name, wanted in asked.items():
            moved = self._at(self._tensors[name], wanted)
            self._places[name] = {wanted: moved, **self._places[name]}

    def _cuts(self, site: Site, intent: Intent) -> Cuts:
        """Choose where and how a node is computed."""
        wishes = [
            Wish(tensor, placement, is_firm=True)
            for position, placement in intent.inputs.items()
            if (tensor := site.inputs[position]) is not None
        ]
        said = {wish.tensor.name for wish in wishes}
        wishes += [
            Wish(tensor, next(iter(self._places[tensor.name])))
            for tensor in site.inputs
            if tensor is not None and tensor.name not in said and not tensor.is_weight
        ]
        wishes += [
            Wish(tensor, placement)
            for position, placement in intent.outputs.items()
            if (tensor := site.outputs[position]) is not None
        ]
        devices = self._devices(intent, [wish.placement for wish in wishes])
        if draws(site.node):  # every device would draw other numbers
            return Cuts(site, devices[:1])
        if any(subgraphs(site.node)):
            return Cuts(site, self._every.members)
        return choose(site, wishes, devices)

    def _devices(self, intent: Intent, placements: Sequence[Placement]) -> tuple[int, ...]:
        if intent.said:
            shared = set(self._every.members).intersection(*(p.members for p in intent.said))
            if not shared:
                raise PlacementError("its tensors lie on devices of which none has all of them")
            return tuple(sorted(shared))
        if intent.devices is not None:
            return intent.devices
        return next((p.members for p in placements if p != self._every), self._every.members)

    def publish(self, name: str) -> None:
        """Let every rank have a whole tensor under its own name."""
        if name in self._graph.weights:
            tensor = self._tensors.get(name)
            weight = self._graph.weights[name]
            self._held[name] = Held(name, weight, (None,) * len(weight.shape))
            assert tensor is None or tensor.is_weight
        elif name not in self._published:
            self._out.base = name
            whole = self._at(self._tensors[name], self._every)
            self._out.named("Identity", [whole], [name])
            self._published.add(name)

    def _at(self, tensor: Tensor, wanted: Placement) -> str:
        """Return the name of this rank's part at a place, moved there if it lies elsewhere."""
        if tensor.is_weight:
            return self._weight(tensor, wanted)
        places = self._places[tensor.name]
        if wanted not in places:
            here = self._nearest(tensor, wanted)
            places[wanted] = move(
                self._out, places[here], _shape(tensor), here, wanted, tensor.data_type
            )
        return places[wanted]

    def _nearest(self, tensor: Tensor, wanted: Placement) -> Placement:
        """Choose the place from which the least is moved."""
        shape = _shape(tensor)
        costs = dict[Placement, int]()
        for place in self._places[tensor.name]:
            try:
                costs[place] = route(shape, place, wanted).moved
            except PlacementError:  # the sizes of two ways of cutting are not known
                continue
        return min(costs, key=costs.__getitem__, default=next(iter(self._places[tensor.name])))

    def _weight(self, tensor: Tensor, wanted: Placement) -> str:
        """Return the name of this rank's part of a weight, read when it is written."""
        places = self._places.setdefault(tensor.name, {})
        weight = self._graph.weights[tensor.name]
        box = wanted.held(weight.shape).get(self._out.rank)
        if wanted not in places and box is not None:
            kept = tuple(
                None if len(row) == n else row for row, n in zip(box, weight.shape, strict=True)
            )
            is_whole = all(row is None for row in kept)
            name = tensor.name if is_whole else self._out.free(f"{tensor.name}/local")
            self._held[name] = Held(name, weight, kept)
            places[wanted] = name
        return places.get(wanted, "")


def _shape(tensor: Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a tensor; one of which nothing is known moves as a whole."""
    return shape_of(tensor) if tensor.has_shape else ()
