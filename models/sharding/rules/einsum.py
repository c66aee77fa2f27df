"""Rules written as one line: `...mk,...kn->...mn`.

A letter is a dim; the same letter is the same axis wherever it stands. `...` stands for the dims
that are left, aligned on the right, as numpy broadcasts. A letter that is missing in the output is
summed over. `!` after a letter: the node needs that dim whole; after `...`: it needs the dims that
are left whole, and makes others of them. An empty term is a scalar; an absent input is skipped.
The term `*` says nothing of an input whose dims are tied elsewhere; inputs beyond the terms are
sizes and places, and needed whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..axes import Axis, Conflict
from ..site import Site, Tensor, Tie

TOKEN = re.compile(r"(\.\.\.|[A-Za-z])(!?)")


def einsum(rule: str) -> Tie:
    """Return the rule that a line describes."""
    left, _, right = rule.partition("->")
    terms, results = left.split(","), right.split(",")

    def tie(site: Site) -> None:
        apply(site, terms, results)

    return tie


def apply(site: Site, terms: Sequence[str], results: Sequence[str]) -> None:
    """Tie the dims of a node's tensors as the terms name them."""
    letters: dict[str, Axis | None] = {}
    rests: list[list[Axis | None]] = []
    made = {letter for term in results for letter, _ in TOKEN.findall(term)}
    pairs = [*zip(site.inputs, terms, strict=False), *zip(site.outputs, results, strict=False)]
    for tensor, term in pairs:
        if tensor is None or term == "*":
            continue
        for letter, needs_whole, axes in _matched(tensor, term):
            if needs_whole:
                site.whole(*axes)
            if letter == "...":
                rests += [axes] * (not needs_whole)
            elif letters.setdefault(letter, axes[0]) is None:
                letters[letter] = axes[0]
            else:
                site.tie(letters[letter], axes[0])
    _tie_rests(site, rests)
    site.parameters(len(terms))
    for letter, axis in letters.items():
        if letter not in made:
            site.contract(axis)


def product_terms(a: Tensor, b: Tensor) -> tuple[str, str, str]:
    """Return the terms of numpy's matrix product: left, right, and what is made."""
    left = "k" if a.rank == 1 else "...mk"
    right = "k" if b.rank == 1 else "...kn"
    return left, right, "..." + "m" * (left != "k") + "n" * (right != "k")


def _tie_rests(site: Site, rests: list[list[Axis | None]]) -> None:
    for axes in rests[:-1]:
        site.tie_all(axes, rests[-1])


def _matched(tensor: Tensor, term: str) -> Iterator[tuple[str, bool, list[Axis | None]]]:
    """Yield letter, whether it must be whole, and the axes that it stands for."""
    tokens = [(letter, mark == "!") for letter, mark in TOKEN.findall(term)]
    rest = tensor.rank - sum(letter != "..." for letter, _ in tokens)
    if rest < 0 or (rest and all(letter != "..." for letter, _ in tokens)):
        raise Conflict(f"{tensor.name} has {tensor.rank} dims, the rule names {term!r}")
    place = 0
    for letter, needs_whole in tokens:
        width = rest if letter == "..." else 1
        yield letter, needs_whole, list(tensor.axes[place : place + width])
        place += width
