"""onnxruntime's sharding specs, "RS[0]" on a mesh, read as placements and written from them.

A spec has a token for each dim: R for one that is not cut, S[m] for one that is cut along axis m
of a mesh of devices. A device may stand in a mesh several times. onnxruntime itself runs specs of
one cut dim on meshes of one axis, and sizes that divide.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from onnx import NodeProto

from ..errors import PlacementError
from ..nodes import attribute
from ..placing.placement import Cut, Factor, Placement, cut

TOKEN = re.compile(r"R|S\[(\d+)\]")
NUMBERS = re.compile(r"\[\s*(?:-?\d+(?:[\s,]+-?\d+)*)?\s*\]")


@dataclass(frozen=True)
class Spec:
    """One tensor's spec and mesh, as the attributes of a node hold them.

    >>> Spec("S[1]S[0]", "[2,2]", "[0,1,2,3]").placement().devices
    ((0,), (1,), (2,), (3,))
    """

    text: str
    mesh_shape: str
    mesh_elements: str

    @property
    def rank(self) -> int:
        """Number of dims."""
        return len(_axes(self.text))

    def placement(self) -> Placement:
        """Return the placement. Raises PlacementError."""
        axes = _axes(self.text)
        shape, elements = _numbers(self.mesh_shape), _numbers(self.mesh_elements)
        if min(shape, default=0) < 1 or len(elements) != math.prod(shape):
            raise PlacementError(
                f"expected a mesh of as many devices as its shape says, "
                f"got shape {self.mesh_shape} and elements {self.mesh_elements}"
            )
        if min(elements) < 0:
            raise PlacementError(f"expected devices of at least 0, got {self.mesh_elements}")
        dims = {axis: dim for dim, axis in enumerate(axes) if axis is not None}
        if len(dims) < sum(axis is not None for axis in axes):
            raise PlacementError(f"expected each axis of a mesh once, got {self.text!r}")
        if unknown := [axis for axis in dims if axis >= len(shape)]:
            raise PlacementError(
                f"expected axes below {len(shape)} in {self.text!r}, got {unknown[0]}"
            )
        order = sorted(dims)
        groups: dict[tuple[int, ...], dict[int, None]] = {}
        loops = itertools.product(*map(range, shape))
        for at, device in zip(loops, elements, strict=True):
            groups.setdefault(tuple(at[axis] for axis in order), {})[device] = None
        return Placement(
            tuple(cut(dims[axis], shape[axis]) for axis in order),
            tuple(tuple(group) for group in groups.values()),
        )

    @classmethod
    def of(cls, placement: Placement, rank: int) -> Spec:
        """Write a placement of a tensor of `rank` dims.

        A dim of several factors becomes a mesh axis of all the parts that lie side by side in it;
        replicas become a last axis, along which nothing is cut. Raises PlacementError for a factor
        of unknown size before one that is cut.
        """
        cuts = [each for each in placement.cuts if each.shards > 1]
        fine = [_fine(each) for each in cuts]
        loops = itertools.product(*(range(f.shards) for c in placement.cuts for f in c.factors))
        held = dict(zip(loops, placement.devices, strict=True))
        width = math.lcm(*map(len, placement.devices))
        elements = list[int]()
        for at in itertools.product(*(range(len(parts)) for parts in fine)):
            place = {c.dim: parts[k] for c, parts, k in zip(cuts, fine, at, strict=True)}
            row = [
                part for c in placement.cuts for part in place.get(c.dim, (0,) * len(c.factors))
            ]
            group = held[tuple(row)]
            elements += [device for device in group for _ in range(width // len(group))]
        shape = [len(parts) for parts in fine] + ([width] if width > 1 or not cuts else [])
        tokens = ["R"] * rank
        for axis, each in enumerate(cuts):
            tokens[each.dim] = f"S[{axis}]"
        return cls("".join(tokens), _text(shape), _text(elements))


def _fine(each: Cut) -> list[tuple[int, ...]]:
    """Return, of the parts of a dim that lie side by side, the part of each factor."""
    last = max(k for k, factor in enumerate(each.factors) if factor.shards > 1)
    rows = [_parts(each, factor) for factor in each.factors[:last]]
    rows.append(list(range(each.factors[last].shards)))
    rest = (0,) * (len(each.factors) - last - 1)
    return [(*at, *rest) for at in itertools.product(*rows)]


def _parts(each: Cut, factor: Factor) -> list[int]:
    """Return the part that each element of an outer factor is in."""
    if isinstance(factor.size, int) and factor.size % factor.shards == 0:
        return [k * factor.shards // factor.size for k in range(factor.size)]
    raise PlacementError(
        f"expected outer factors of dim {each.dim} of known sizes that divide, got {factor}"
    )


def _axes(text: str) -> list[int | None]:
    """Return the mesh axis of each dim, None for one that is not cut."""
    if TOKEN.sub("", text):
        raise PlacementError(f"expected a spec such as 'RS[0]', got {text!r}")
    return [int(m[1]) if m[1] is not None else None for m in TOKEN.finditer(text)]


def _numbers(text: str) -> list[int]:
    if not NUMBERS.fullmatch(text.strip()):
        raise PlacementError(f"expected numbers such as '[0,1]', got {text!r}")
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _text(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


class Located(NamedTuple):
    """A tensor of which each rank has a part."""

    name: str
    placement: Placement
    rank: int
    """number of dims"""


def located(node: NodeProto, side: str, names: Sequence[str], size: int) -> list[Located]:
    """Return where the inputs or outputs of a node lie on `size` ranks, those that are there.

    Raises PlacementError.
    """
    specs = _strings(node, f"{side}_shard_specs")
    shape, elements = _shared_mesh(node)
    shapes = _strings(node, f"{side}_device_mesh_shapes") or [shape] * len(specs)
    meshes = _strings(node, f"{side}_device_mesh_elements") or [elements] * len(specs)
    if not len(names) <= len(specs) == len(shapes) == len(meshes):
        raise PlacementError(
            f"expected a spec, a mesh shape and mesh elements for each of {len(names)} "
            f"{side}s, got {len(specs)}, {len(shapes)} and {len(meshes)}"
        )
    made = [
        (name, Spec(*texts))
        for name, *texts in zip(names, specs, shapes, meshes, strict=False)
        if name
    ]
    found = [Located(name, spec.placement(), spec.rank) for name, spec in made]
    for (_, spec), each in zip(made, found, strict=True):
        if max(each.placement.members) >= size:
            raise PlacementError(f"expected devices below {size}, got {spec.mesh_elements}")
    return found


def _strings(node: NodeProto, name: str) -> list[str]:
    given: Any = attribute(node, name, [])
    return [text.decode() if isinstance(text, bytes) else str(text) for text in given]


def _shared_mesh(node: NodeProto) -> tuple[str, str]:
    """Return the mesh of all tensors, as earlier versions of the operators have it."""
    shape: Any = attribute(node, "device_mesh_shape", [])
    elements: Any = attribute(node, "device_mesh_elements", [])
    return str(list(shape)), str(list(elements))
