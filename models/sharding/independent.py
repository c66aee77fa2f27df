"""Independent sets: of things that exclude each other, those that are worth most together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set


def independent_set(worth: Sequence[float], edges: Sequence[Set[int]]) -> set[int]:
    """Return the numbers of the pairwise compatible candidates that are worth most together.

    Branches on the one with the most conflicts; what is left falls into small components. All
    ranks come to the same answer: nothing depends on the order of a set of objects.
    """
    return _best({k for k, value in enumerate(worth) if value > 0}, worth, edges)


def _best(left: Set[int], worth: Sequence[float], edges: Sequence[Set[int]]) -> set[int]:
    kept = set[int]()
    for component in _components(left, edges):
        hub = max(component, key=lambda k: (len(edges[k] & component), -k))
        if len(component) == 1:
            kept.add(hub)
            continue
        with_hub = {hub} | _best(component - edges[hub] - {hub}, worth, edges)
        without = _best(component - {hub}, worth, edges)
        kept |= max(with_hub, without, key=lambda some: sum(worth[k] for k in sorted(some)))
    return kept


def _components(left: Set[int], edges: Sequence[Set[int]]) -> Iterator[set[int]]:
    rest = set(left)
    while rest:
        component, border = set[int](), {min(rest)}
        while border:
            component |= border
            border = {n for k in border for n in edges[k] & rest} - component
        rest -= component
        yield component
