"""The work of a node: multiply-adds, elements made, weights read; whole and on one rank.

Multiply-adds are counted of the operators that take a transformer's or a convolutional network's
time: products, convolutions, attention, recurrences, and the same of quantised elements. All
others count by the elements that they make.

Letters: b batch, s tokens, t tokens attended to, K summed over, M and N made.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from .analysis import Analysis, usual_bytes
from .axes import Axis
from .layout import Layout, is_opaque
from .site import Site, Tensor

Shape = tuple[int, ...]


class Shapes(NamedTuple):
    """A node's shapes at the usual sizes; () where a tensor is absent or unknown."""

    site: Site
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]

    def input(self, position: int) -> Shape:
        return self.inputs[position] if position < len(self.inputs) else ()

    @property
    def made(self) -> int:
        """Elements of the first output."""
        return math.prod(self.outputs[0])


Count = Callable[[Shapes], int]


class Work(NamedTuple):
    """What a node, or a whole graph, computes and reads in a run of the usual size."""

    multiply_adds: float = 0.0
    made: float = 0.0
    """elements of outputs"""
    read: float = 0.0
    """bytes of weights, and of states that come in"""
    again: float = 0.0
    """bytes of weights that are read again, by every further step of a sequence"""

    def plus(self, other: Work) -> Work:
        return Work(*map(operator.add, self, other))

    def minus(self, other: Work) -> Work:
        return Work(*map(operator.sub, self, other))

    def of_rows(self, share: float) -> Work:
        """Return the work of a part of the batch: weights are read all the same."""
        return Work(self.multiply_adds * share, self.made * share, self.read, self.again)


def _product(given: Shapes) -> int:
    """[.., M, K] by [.., K, N]."""
    left = given.input(0)
    place = -2 if given.site.attribute("transA", 0) and len(left) > 1 else -1
    return given.made * left[place]


def _nbits(given: Shapes) -> int:
    return given.made * int(given.site.attribute("K"))


def _convolution(weight: int) -> Count:
    """Each element made is a sum over input channels of a group and the kernel: [o, c, kernel]."""

    def count(given: Shapes) -> int:
        return given.made * math.prod(given.input(weight)[1:])

    return count


def _transposed_convolution(given: Shapes) -> int:
    """Each element taken in goes into the output channels of a group and the kernel."""
    return math.prod(given.input(0)) * math.prod(given.input(1)[1:])


def _einsum(given: Shapes) -> int:
    """All letters of the equation; those behind an ellipsis come as the output has them."""
    left, _, right = str(given.site.attribute("equation")).partition("->")
    sizes = dict[str, int]()
    for term, shape in zip(left.replace(" ", "").split(","), given.inputs, strict=True):
        before, _, after = term.partition("...")
        sizes |= zip(before, shape, strict=False)
        if after:
            sizes |= zip(after, shape[-len(after) :], strict=False)
    summed = [size for letter, size in sizes.items() if letter not in right]
    return given.made * math.prod(summed) if right else math.prod(sizes.values())


def _attention(past: int) -> Count:
    """Scores [b, heads, s, t] are made from the queries, and with the values make the output."""

    def count(given: Shapes) -> int:
        queries, keys = given.input(0), given.input(1)
        if not keys:  # queries, keys and values lie in one tensor: [b, s, heads, 3, width]
            queries, keys = given.outputs[0], given.outputs[0]
        earlier = given.input(past)
        # Keys and values in one tensor are [b, t, heads, 2, width].
        attended = keys[1] if len(keys) == 5 else keys[-2]
        attended += earlier[-2] if earlier else 0
        return (math.prod(queries) + given.made) * attended

    return count


def _grouped_attention(given: Shapes) -> int:
    """Keys and values are in the cache that is given out, [b, groups, t, width]."""
    made = given.outputs[1] if len(given.outputs) > 1 else ()
    attended = made[2] if made else given.input(0)[1] + (given.input(3) or (0, 0, 0))[2]
    return 2 * given.made * attended


def _projected_attention(past: int) -> Count:
    """Attention that makes its queries, keys and values by a weight, [K, N]."""

    def count(given: Shapes) -> int:
        x, weight, earlier = given.input(0), given.input(1), given.input(past)
        attended = x[1] + (earlier[-2] if earlier else 0)
        return math.prod(x) * weight[-1] + 2 * given.made * attended

    return count


def _recurrence(given: Shapes) -> int:
    """Each step multiplies what comes in and the state by weights of all gates and directions."""
    steps = math.prod(given.input(0)[:2])
    return steps * (math.prod(given.input(1)) + math.prod(given.input(2)))


def _experts(*weights: int, is_packed: bool = False) -> Count:
    """A token goes through k of the experts: [experts, M, K] each. Packed bytes hold several."""

    def count(given: Shapes) -> int:
        site, x = given.site, given.input(0)
        shapes = [given.input(position) for position in weights]
        chosen = math.prod(x[:-1]) * int(site.attribute("k", 1))
        packed = 8 // int(site.attribute("expert_weight_bits", 4)) if is_packed else 1
        return chosen * packed * sum(math.prod(shape[1:]) for shape in shapes if shape)

    return count


COUNTS: dict[tuple[str, str], Count] = {
    # products
    ("", "MatMul"): _product,
    ("", "Gemm"): _product,
    ("", "Einsum"): _einsum,
    ("", "MatMulInteger"): _product,
    ("", "QLinearMatMul"): _product,
    ("com.microsoft", "DynamicQuantizeMatMul"): _product,
    ("com.microsoft", "FusedGemm"): _product,
    ("com.microsoft", "FusedMatMul"): _product,
    ("com.microsoft", "MatMulInteger16"): _product,
    ("com.microsoft", "MatMulIntegerToFloat"): _product,
    ("com.microsoft", "MatMulNBits"): _nbits,
    ("com.microsoft", "QGemm"): _product,
    ("com.microsoft", "TransposeMatMul"): _product,
    # convolutions
    ("", "Conv"): _convolution(1),
    ("", "ConvInteger"): _convolution(1),
    ("", "ConvTranspose"): _transposed_convolution,
    ("", "DeformConv"): _convolution(1),
    ("", "QLinearConv"): _convolution(3),
    ("com.microsoft", "FusedConv"): _convolution(1),
    # attention
    ("", "Attention"): _attention(4),
    ("com.microsoft", "Attention"): _projected_attention(4),
    ("com.microsoft", "GroupQueryAttention"): _grouped_attention,
    ("com.microsoft", "MultiHeadAttention"): _attention(6),
    ("com.microsoft", "QAttention"): _projected_attention(8),
    # recurrences
    ("", "GRU"): _recurrence,
    ("", "LSTM"): _recurrence,
    ("", "RNN"): _recurrence,
    # experts
    ("com.microsoft", "MoE"): _experts(2, 4, 6),
    ("com.microsoft", "QMoE"): _experts(2, 5, 8, is_packed=True),
}
"""Multiply-adds by domain and operator."""

LOOKED_UP = {"Gather", "GatherBlockQuantized", "GatherElements", "GatherND"}
"""Operators that read of a table no more than they give out."""

VIEWS = {"Constant", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"}
"""Operators that make nothing anew."""

CHANNELS = 16
"""Convolutions take input channels so many at a time, as floats fill a vector of 512 bits: three
channels on two ranks are no less work than on one."""


def work(analysis: Analysis, site: Site) -> Work:
    """Return the work of a node that is computed whole; that of its bodies is not its own."""
    if site.bodies:
        return Work()
    count = COUNTS.get((site.node.domain.replace("ai.onnx", ""), site.node.op_type))
    shapes = _shapes(analysis, site)
    tensors = filter(None, (*site.inputs, *site.outputs))
    is_known = all(tensor.name in analysis.usual for tensor in tensors)
    made = 0 if site.node.op_type in VIEWS else sum(map(math.prod, filter(None, shapes.outputs)))
    read = sum(_read(analysis, site, tensor) for tensor in _kept(analysis, site))
    return Work(
        site.times * (count(shapes) if count and is_known else 0),
        site.times * made,
        site.times * read,
        site.times * _again(analysis, site),
    )


def local_work(analysis: Analysis, site: Site, whole: Work, layout: Layout, rank: int) -> Work:
    """Return the work of one rank: its share of what is made, summed over and gathered."""
    if site.seen.isdisjoint(layout.sharded) or is_opaque(site, layout):
        return whole
    made = next(out for out in site.outputs if out is not None)
    own = share(made, layout, rank)
    summed = math.prod(_summed(site, entry.axis, layout, rank) for entry in site.contracted)
    summed *= math.prod(float(layout.fraction(axis, rank)) for axis in site.gathered)
    read = sum(_read(analysis, site, t) * share(t, layout, rank) for t in _kept(analysis, site))
    again = whole.again * math.prod(float(layout.fraction(axis, rank)) for axis in site.gathered)
    return Work(whole.multiply_adds * own * summed, whole.made * own, site.times * read, again)


def share(tensor: Tensor, layout: Layout, rank: int) -> float:
    """Return the part of a tensor's elements that a rank has."""
    return math.prod(float(layout.fraction(axis, rank)) for axis in tensor.axes)


def _summed(site: Site, axis: Axis, layout: Layout, rank: int) -> float:
    """Return the part of an axis that a rank sums over."""
    if "Conv" not in site.node.op_type or not layout.holds(axis):
        return float(layout.fraction(axis, rank))
    return math.ceil(layout.local(axis, rank).first / CHANNELS) / math.ceil(
        axis.size.first / CHANNELS
    )


def _kept(analysis: Analysis, site: Site) -> list[Tensor]:
    """Return the inputs of a node that are there before a run: weights and states."""
    states = set(analysis.states.values())
    return [t for t in site.inputs if t is not None and (t.is_weight or t.name in states)]


def _read(analysis: Analysis, site: Site, tensor: Tensor) -> int:
    if not tensor.is_weight:
        return usual_bytes(analysis, tensor)
    nbytes = analysis.graph.weights[tensor.name].nbytes
    if site.node.op_type in LOOKED_UP and tensor is site.inputs[0]:
        return min(nbytes, *(usual_bytes(analysis, out) for out in site.outputs if out))
    return nbytes


def _again(analysis: Analysis, site: Site) -> int:
    """Return the bytes of a recurrent weight, by its inputs the third, that later steps read."""
    if not site.gathered or not site.tensor(2).is_weight:
        return 0
    steps, _ = steps_and_batch(analysis, site)
    return max(0, steps - 1) * analysis.graph.weights[site.tensor(2).name].nbytes


def steps_and_batch(analysis: Analysis, site: Site) -> tuple[int, int]:
    """Return how many steps a recurrent layer goes along, and for how many sequences."""
    x = site.tensor(0)
    steps, batch, _ = analysis.usual.get(x.name, tuple(size.first for size in x.shape))
    return (batch, steps) if site.attribute("layout", 0) else (steps, batch)


def _shapes(analysis: Analysis, site: Site) -> Shapes:
    def shapes(tensors: list[Tensor | None]) -> tuple[Shape, ...]:
        return tuple(analysis.usual.get(t.name, ()) if t is not None else () for t in tensors)

    return Shapes(site, shapes(site.inputs), shapes(site.outputs))
