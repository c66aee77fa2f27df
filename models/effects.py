"""Effects: nodes that communicate, which keep an order among themselves.

The order of a graph's effects follows from what they read, tokens among that, and else from a
number that each states, or else from where they stand in the file. The number is the attribute
`order`; beside it `effects` may say how many there are, so that one that is missing is missed. If,
Loop and Scan, whose schemas have no such attributes, state both in metadata_props, as in 3/7.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from onnx import NodeProto, helper

from .errors import ModelError
from .nodes import attribute, label, subgraphs
from .opset import DOMAIN, OPS

ORDER, COUNT = "order", "effects"
METADATA_ORDER = "rankwise.order"


class Place(NamedTuple):
    """Where an effect comes among those of its graph."""

    number: int
    total: int | None = None
    """how many there are, if that is stated"""


def is_effect(node: NodeProto) -> bool:
    """Say whether a node communicates, or one in its bodies does; Rank and Size do not."""
    if node.domain == DOMAIN:
        return node.op_type not in OPS or OPS[node.op_type].is_effect
    return any(is_effect(inner) for body in subgraphs(node) for inner in body.node)


def place_of(node: NodeProto) -> Place | None:
    """Return the place in the order that an effect states. Raises ModelError for no number."""
    if node.domain == DOMAIN:
        found = attribute(node, ORDER), attribute(node, COUNT)
    else:
        text = next((e.value for e in node.metadata_props if e.key == METADATA_ORDER), None)
        found = (None, None) if text is None else (*text.split("/"), None)[:2]
    if found[0] is None:
        return None
    try:
        return Place(int(str(found[0])), None if found[1] is None else int(str(found[1])))
    except ValueError:
        raise ModelError(
            f"{label(node)}: expected an order that is a number, got {found[0]!r}"
        ) from None


def set_place(node: NodeProto, place: Place | None) -> None:
    """State the place of an effect in the order, or none."""
    for entry in [e for e in node.attribute if e.name in (ORDER, COUNT)]:
        if node.domain == DOMAIN:
            node.attribute.remove(entry)
    for prop in [e for e in node.metadata_props if e.key == METADATA_ORDER]:
        node.metadata_props.remove(prop)
    if place is None:
        return
    stated = [part for part in place if part is not None]
    if node.domain == DOMAIN:
        node.attribute.extend(map(helper.make_attribute, (ORDER, COUNT), stated))
    else:
        node.metadata_props.add(key=METADATA_ORDER, value="/".join(map(str, stated)))


def sequence(nodes: Sequence[NodeProto], needs: Sequence[set[int]]) -> list[int]:
    """Return the indices of the effects in their order; `needs` are those that each node reads.

    Compute nodes may stand anywhere: where they stand changes nothing. Raises ModelError for
    numbers that are given twice, or that what the nodes read contradicts, and for effects that
    are not as many as they say.
    """
    effects = [k for k, node in enumerate(nodes) if is_effect(node)]
    places = {k: place for k in effects if (place := place_of(nodes[k])) is not None}
    _check_count(nodes, len(effects), places)
    numbers = {k: place.number for k, place in places.items()}
    by_number = sorted(numbers, key=lambda k: numbers[k])
    for first, second in itertools.pairwise(by_number):
        if numbers[first] == numbers[second]:
            raise ModelError(
                f"expected an order that is each node's own, got {numbers[first]} of "
                f"{label(nodes[first])} and of {label(nodes[second])}"
            )
    following = iter(by_number)
    wanted = [next(following) if k in numbers else k for k in effects]
    among = set(effects)
    made = [k for k in _after_their_needs(wanted, needs) if k in among]
    _check_numbers(nodes, [k for k in made if k in numbers], numbers)
    return made


def _check_count(nodes: Sequence[NodeProto], count: int, places: Mapping[int, Place]) -> None:
    for k, place in places.items():
        if place.total is not None and place.total != count:
            raise ModelError(
                f"{label(nodes[k])} is number {place.number} of {place.total} that communicate, "
                f"but there are {count}: something has removed or doubled them; make the file "
                "again from its source"
            )


def _after_their_needs(wanted: Sequence[int], needs: Sequence[set[int]]) -> Iterator[int]:
    """Yield nodes in the order that is wanted, but each after what it needs."""
    opened, done = set[int](), set[int]()
    for start in wanted:
        todo = [start]
        while todo:
            k = todo[-1]
            if k not in opened:
                opened.add(k)
                todo += sorted((m for m in needs[k] if m not in opened), reverse=True)
                continue
            todo.pop()
            if k not in done:
                done.add(k)
                yield k


def _check_numbers(
    nodes: Sequence[NodeProto], made: Sequence[int], numbers: Mapping[int, int]
) -> None:
    for first, second in itertools.pairwise(made):
        if numbers[first] > numbers[second]:
            raise ModelError(
                f"{label(nodes[second])} is to come before {label(nodes[first])}, by their orders "
                f"{numbers[second]} and {numbers[first]}, but depends on it; number them anew"
            )
