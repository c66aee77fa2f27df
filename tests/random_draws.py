"""Hypothesis strategies for cases and plans.

Drawing costs more than all else, so what is alike on all ranks, or a mix, is drawn as one number.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from layouts import ALIASES, LAYOUTS, READ_ONLY, SHARED, Place
from random_cases import (
    FROM_ROOT,
    MOST_RANKS,
    NOWHERE,
    NUMBERS,
    ODD,
    OPS,
    ORDERED,
    OTHERS,
    REDUCING,
    TO_ROOT,
    UNEVEN,
    Case,
    Letter,
    Post,
)
from random_oracle import CHOICES
from random_plans import Plan

from rankwise.collectives.table import SPECIAL, TABLE

T = TypeVar("T")

LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 11, 13]
LONG = [(997,), (64, 65), (40_000,), (3, 5, 2203), (150_001,)]
HOWS = ["send", "isend", "batch", "sendrecv"]
MOST_CALLS = 4
MISTAKES: list[dict[str, Any]] = [
    {"op": "avg"},
    {"op": "last"},  # where the algorithm does not keep the order
    {"algorithm": "rong"},
    {"dtype": "O"},
    {"root": NOWHERE},
    {"dim": NOWHERE},
    {"other": NOWHERE},
    {"fault": "shape"},
    {"fault": "read-only"},
    {"fault": "view", "view": True},
    *({"odd": what} for what in ODD),
]


def mix(values: Sequence[T], number: int) -> tuple[T, ...]:
    """One value for each rank, by the digits of a number."""
    found = []
    for _ in range(MOST_RANKS):
        number, digit = divmod(number, len(values))
        found.append(values[digit])
    return tuple(found)


def alike(values: Sequence[T]) -> st.SearchStrategy[tuple[T, ...]]:
    """The same on all ranks."""
    return st.sampled_from([(value,) * MOST_RANKS for value in values])


def by_rank(values: Sequence[T]) -> st.SearchStrategy[tuple[T, ...]]:
    """The same on all ranks, or any mix."""
    mixes = st.integers(0, len(values) ** MOST_RANKS - 1).map(functools.partial(mix, values))
    return alike(values) | mixes


def places(*layouts: str) -> list[Place]:
    return [Place(*place) for place in itertools.product((*LAYOUTS, *layouts), (False, True))]


PLACES = st.tuples(  # of x and out; half of the time all of them is memory that ranks share
    by_rank(places(*READ_ONLY)), alike([None]) | by_rank([None, *places(*ALIASES)])
) | st.tuples(alike([SHARED]), alike([None, SHARED, *(Place(name, True) for name in ALIASES)]))
MANNERS = by_rank(["", "hasty", "late"])
LATE = by_rank(["", "late"])
MISTAKE = st.sampled_from([{}] * 9 * len(MISTAKES) + MISTAKES)
VIEW = st.sampled_from([False, False, True])
RANK = st.integers(0, MOST_RANKS - 1)
SEED = st.integers(0, 99)
UNEVENLY = alike([0]) | by_rank([0, 1, 2, 3])
SMALL = st.lists(st.sampled_from(LENGTHS), max_size=3).map(tuple)
SHAPES = st.one_of(SMALL, SMALL, SMALL, st.sampled_from(LONG))
SQUARES = st.integers(0, 5).map(lambda n: (n, n))


@functools.cache
def cases(collective: str, algorithm: str | None = None) -> st.SearchStrategy[Case]:
    """Calls of a collective, by any algorithm or this one, some with a mistake."""
    if collective == "barrier":
        names = st.just(algorithm) if algorithm else algorithms(collective, "sum")
        sound = st.builds(Case, st.just(collective), names, manners=LATE)
    else:
        sound = sound_ones(collective, algorithm)
    return st.builds(mistaken, sound, MISTAKE)


@st.composite
def sound_ones(draw: st.DrawFn, collective: str, algorithm: str | None) -> Case:
    reduces = collective in REDUCING
    op = draw(ops(collective, algorithm)) if reduces else "sum"
    name = draw(algorithms(collective, op)) if algorithm is None else algorithm
    dtype, shape = draw(kinds(collective, op)), draw(SQUARES if op == "np.matmul" else SHAPES)
    dims = st.integers(-max(len(shape), 1), max(len(shape), 1) - 1)
    view = collective == "allreduce" and draw(VIEW)
    places_of_x, places_of_out = draw(PLACES)
    return Case(
        collective,
        name,
        dtype,
        shape,
        op,
        root=draw(RANK),
        dim=draw(dims),
        other=draw(dims),
        data=draw(data_of(reduces, op, dtype, name)),
        seed=draw(SEED),
        places=places_of_x,
        into=(None,) * MOST_RANKS if view else places_of_out,
        uneven=draw(UNEVENLY) if collective in UNEVEN else (0,) * MOST_RANKS,
        counts=collective in UNEVEN and draw(st.booleans()),
        view=view,
        manners=draw(MANNERS),
    )


def mistaken(case: Case, mistake: dict[str, Any]) -> Case:
    """The case with a mistake, but for one that not all ranks would notice."""
    is_unseen = case.collective in FROM_ROOT and "dtype" in mistake
    is_unseen |= case.collective in TO_ROOT and "fault" in mistake
    has_no_view = "view" in mistake and case.collective != "allreduce"
    return case if is_unseen or has_no_view else replace(case, **mistake)


def findable(case: Case, checked: bool) -> Case:
    """The case, without a rank that differs where that need not be found."""
    if not case.odd:
        return case
    if checked:
        ndim = max(len(case.shape), 1)  # the same dim of one shape and of another
        return replace(case, dim=case.dim % ndim, other=case.other % ndim)
    if case.collective in UNEVEN and case.odd in ("dtype", "shape"):
        return replace(case, counts=False)
    return replace(case, odd="")


@functools.cache
def ops(collective: str, algorithm: str | None) -> st.SearchStrategy[str]:
    """Those that the algorithm has."""
    entry = TABLE[collective].get(algorithm or "")
    if entry is not None and not entry.shared and not (entry.ordered and entry.whole):
        return st.sampled_from([op for op in OPS if op not in ORDERED])
    return st.sampled_from(list(OPS))


@functools.cache
def algorithms(collective: str, op: str) -> st.SearchStrategy[str]:
    """Those that keep the order where that matters."""
    known = TABLE[collective].items()
    fit = [name for name, e in known if op not in ORDERED or (e.ordered and e.whole)]
    return st.sampled_from([*SPECIAL, *fit])


@functools.cache
def kinds(collective: str, op: str) -> st.SearchStrategy[str]:
    if op == "np.matmul":
        return st.sampled_from("bhilqBHILQfdFD")
    return st.sampled_from(NUMBERS if collective in REDUCING else [*NUMBERS, *OTHERS])


@functools.cache
def data_of(reduces: bool, op: str, dtype: str, algorithm: str) -> st.SearchStrategy[str]:
    """Sums of huge floats depend on their order, and what MPI does with NaN is its own affair."""
    if op in ("affine", "np.matmul") and dtype not in "bhilqBHILQ":
        return st.just("small")
    is_integer = dtype in "?bhilqBHILQ" or dtype == ">i4"
    limits = not reduces or is_integer or (op in CHOICES and algorithm != "mpi")
    return st.sampled_from(["small", "any", "limits"] if limits else ["small", "any"])


@functools.cache
def posts(how: str) -> st.SearchStrategy[Post]:
    """Messages among all ranks. One may be shorter or longer than expected."""
    aliases = ALIASES if how == "sendrecv" else ()
    letters = st.builds(
        Letter,
        RANK,
        RANK,
        tag=st.sampled_from([0, 0, 1, 30_000]),
        dtype=st.sampled_from([*NUMBERS, *OTHERS]),
        shape=SHAPES,
        data=st.sampled_from(["small", "limits"]),
        seed=SEED,
        place=st.sampled_from(places(*READ_ONLY)),
        into=st.sampled_from([None, *places(*aliases)]),
        more=st.sampled_from([0] * 58 + [-1, 1]),
    )
    some = st.lists(letters.map(possible), min_size=1, max_size=5).map(tuple)
    return st.builds(Post, st.just(how), some, st.booleans())


def possible(letter: Letter) -> Letter:
    """A letter of which more or less can be expected only where it has any length."""
    return letter if 0 not in letter.shape and letter.shape else replace(letter, more=0)


def calls(collective: str, algorithm: str | None = None) -> st.SearchStrategy[Case | Post]:
    if collective == "messages":
        return posts(algorithm) if algorithm else st.one_of(*map(posts, HOWS))
    return cases(collective, algorithm)


ANY = st.one_of([calls(collective) for collective in (*TABLE, *REDUCING, "messages")])


@functools.cache
def groupings(ranks: int) -> list[tuple[tuple[int, ...], ...]]:
    """All ways to make one or two groups, in any order of ranks."""
    found = set()
    for order in itertools.permutations(range(ranks)):
        for first, second in itertools.product(range(1, ranks + 1), range(ranks)):
            pairs = (order[:first], order[first : first + second])
            found.add(tuple(group for group in pairs if group))
    return sorted(found)


@functools.cache
def waits(calls: int) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Those of a plan: () where all calls block."""
    of_one_rank = list(itertools.product(range(calls + 1), repeat=calls))
    return st.one_of(st.just(()), by_rank(of_one_rank))


@st.composite
def plans(draw: st.DrawFn, ranks: int, first: st.SearchStrategy[Case | Post] = ANY) -> Plan:
    """Calls on the world, or on one or two groups: `first`, and some more of it or any."""
    checked, groups = draw(st.booleans()), draw(groups_of(ranks))
    several = [draw(first), *draw(st.lists(first | ANY, max_size=MOST_CALLS - 1))]
    return Plan(
        tuple(one if isinstance(one, Post) else findable(one, checked) for one in several),
        groups,
        draw(waits(len(several))),
        draw(st.booleans()),
        bool(groups) and draw(st.booleans()),
        checked,
    )


@functools.cache
def groups_of(ranks: int) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    return st.one_of(st.just(()), st.sampled_from(groupings(ranks)))
