"""Random calls of all collectives on 1 to 4 ranks, against numpy.

Cases are drawn here and sent to ranks that stay (pool.py). What a call must give is computed from
the operands of all ranks with numpy alone; what a mistake must raise, from `mistakes`. After each
case the communicator must still work.

    pytest -m slow tests/test_random.py     # many more cases, other ones each time
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pool import Pool
from rank_worker import Answer, Call, Job, affine, last

from rankwise.collectives.table import TABLE

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]  # hypothesis shrinks for 300 s

Array = np.ndarray[Any, np.dtype[Any]]

SMALL_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
NUMBERS = [*"?bhilqBHILQefdgFDG", *SMALL_FLOATS, ">i4", ">f8", ">c8"]
OTHERS = ["S3", "U2", "M8[s]", "m8[ns]", "V5"]
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 11, 13]
LONG = [(997,), (64, 65), (40_000,), (3, 5, 2203), (150_001,)]
OPS: dict[str, Any] = {
    **{
        name: name
        for name in [
            "sum",
            "prod",
            "min",
            "max",
            "mean",
            "band",
            "bor",
            "bxor",
            "land",
            "lor",
            "lxor",
        ]
    },
    "builtin sum": sum,
    "builtin min": min,
    "builtin max": max,
    "np.add": np.add,
    "np.multiply": np.multiply,
    "np.maximum": np.maximum,
    "np.fmin": np.fmin,
    "np.gcd": np.gcd,
    "np.bitwise_xor": np.bitwise_xor,
    "affine": affine,
    "last": last,
    "np.matmul": np.matmul,
}
ORDERED = {"affine": affine, "last": last, "np.matmul": np.matmul}
FOLDS: dict[str, Any] = {
    "sum": np.add,
    "builtin sum": np.add,
    "mean": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "builtin min": np.minimum,
    "max": np.maximum,
    "builtin max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
TRUTHS: dict[str, Any] = {
    "land": np.all,
    "lor": np.any,
    "lxor": lambda x, axis: np.sum(x, axis) % 2 == 1,
}
CHOICES = {"min", "max", "builtin min", "builtin max", "np.maximum", "np.fmin", "last"}
INTEGERS_ONLY = {"band", "bor", "bxor", "np.gcd", "np.bitwise_xor"}

REDUCING = ("allreduce", "reduce", "reduce_scatter")
ROOTED = ("broadcast", "scatter", "gather", "reduce")
WITH_DIM = ("reduce_scatter", "allgather", "gather", "scatter", "alltoall")
UNEVEN = ("allgather", "gather", "alltoall")
FROM_ROOT = ("broadcast", "scatter")
TO_ROOT = ("reduce", "gather")
NOWHERE = 9  # no rank, no dim


@dataclass(frozen=True)
class Case:
    """One collective call, the same on all ranks but for the elements and lengths.

    `other` is alltoall's concat_dim. `data`: "small" numbers, of which all results are exact,
    "any" of the dtype, or its "limits". `misfit`: the last rank brings another dtype.
    """

    collective: str
    algorithm: str
    dtype: str = "d"
    shape: tuple[int, ...] = ()
    op: str = "sum"
    root: int = 0
    dim: int = 0
    other: int = 0
    data: str = "small"
    seed: int = 0
    layout: str = "c"
    into: str = ""
    uneven: tuple[int, ...] = (0, 0, 0, 0)
    counts: bool = False
    misfit: bool = False

    @property
    def kind(self) -> np.dtype[Any]:
        return np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - cases are small
    def operands(self, size: int) -> list[Array]:
        """What each rank brings."""
        return [self.operand(rank, self.misfit and 0 < rank == size - 1) for rank in range(size)]

    def operand(self, rank: int, misfit: bool) -> Array:
        shape = list(self.shape)
        if any(self.uneven) and -len(shape) <= self.joined < len(shape):
            shape[self.joined] += self.uneven[rank]
        kind = np.dtype("i2" if self.dtype != "h" else "i4") if misfit else self.kind
        return elements(np.random.default_rng([self.seed, rank]), tuple(shape), kind, self.data)

    @property
    def joined(self) -> int:
        """The dim along which ranks may differ."""
        return self.other if self.collective == "alltoall" else self.dim

    def lengths(self, operands: Sequence[Array]) -> list[int]:
        return [np.atleast_1d(x).shape[self.joined] for x in operands]


def elements(
    rng: np.random.Generator, shape: tuple[int, ...], kind: np.dtype[Any], data: str
) -> Array:
    """An array of small whole numbers, of any numbers, or of those at the limits of the dtype."""
    raw: Any
    if is_other(kind):
        raw = rng.integers(0, 100, shape)
        raw = np.asarray(raw, "S5") if kind.kind == "V" else raw
    elif data == "small" or kind.kind in "bO":
        raw = rng.integers(0 if kind.kind in "bu" else -1, 2, shape)
    elif kind.kind in "iu":
        bounds = np.iinfo(kind)
        native = kind.newbyteorder("=")
        if data == "limits":
            raw = rng.choice(np.array([bounds.min, bounds.max, 0, 1], native), shape)
        else:
            raw = rng.integers(bounds.min, bounds.max, shape, native, endpoint=True)
    elif kind.kind == "c":
        raw = np.empty(shape, np.clongdouble)
        raw.real, raw.imag = real(rng, shape, data), real(rng, shape, data)
    else:
        raw = real(rng, shape, data)
    with np.errstate(all="ignore"):
        return np.asarray(raw).astype(kind)


def is_other(kind: np.dtype[Any]) -> bool:
    """Text, times and bytes, which are moved and not reduced."""
    return kind.kind in "SUMmV" and kind.type.__module__ != "ml_dtypes"


def real(rng: np.random.Generator, shape: tuple[int, ...], data: str) -> Array:
    """Signed numbers between 1/2 and 2, of which no product of a few leaves a dtype's range."""
    if data == "limits":
        return rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-7, 6e4, -1e300], shape)
    return rng.choice([-1.0, 1.0], shape) * 2 ** rng.uniform(-1, 1, shape)


def mistakes(case: Case, size: int) -> set[str]:
    """The exceptions of which one must be raised, on every rank."""
    return set(found_mistakes(case, size))


def found_mistakes(case: Case, size: int) -> Iterator[str]:
    known = TABLE[case.collective]
    if case.algorithm not in (*known, "auto", "mpi"):
        yield "ValueError"
    if case.collective == "barrier":
        return
    ndim = max(len(case.shape), 1)
    dims = [case.dim] if case.collective in WITH_DIM else []
    dims += [case.other] if case.collective == "alltoall" else []
    if case.into == "wrong" or any(not -ndim <= dim < ndim for dim in dims):
        yield "ValueError"
    if case.collective in ROOTED and case.root == NOWHERE:
        yield "ValueError"
    if case.dtype == "O":
        yield "TypeError"
    if case.misfit and size > 1:
        yield "MismatchError"
    if case.collective in REDUCING:
        if case.op not in OPS:
            yield "ValueError"
        elif undefined(case.op, case.kind):
            yield "TypeError"
        entry = known.get(case.algorithm)
        # Those of shared memory stand aside for others where they cannot be taken.
        keeps_order = entry is None or entry.shared or (entry.ordered and entry.whole)
        if case.op in ORDERED and not keeps_order:
            yield "ValueError"


def undefined(op: str, kind: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype cannot be reduced so."""
    if op == "mean":
        return kind.kind in "biu"
    if op == "np.gcd":
        return kind.kind not in "iu"
    return op in INTEGERS_ONLY and kind.kind not in "biu"


@functools.lru_cache(maxsize=8)
def expected(case: Case, size: int) -> list[Array | None]:
    """What each rank gets, by numpy alone; reductions of floats are rounded in some order."""
    operands, root = case.operands(size), case.root % size
    if case.collective == "barrier":
        return [None] * size
    if case.collective == "broadcast":
        return [operands[root]] * size
    if case.collective in WITH_DIM:
        operands = [np.atleast_1d(x) for x in operands]
    if case.collective == "scatter":
        return list(np.array_split(operands[root], size, case.dim))
    if case.collective == "alltoall":
        parts = [np.array_split(x, size, case.dim) for x in operands]
        return [joined(case, [part[rank] for part in parts], case.other) for rank in range(size)]
    if case.collective in REDUCING:
        whole = reduced(case, operands)
    else:
        whole = joined(case, operands, case.dim)
    if case.collective == "reduce_scatter":
        return list(np.array_split(whole, size, case.dim))
    to_all = case.collective not in TO_ROOT
    return [whole if to_all or rank == root else None for rank in range(size)]


def joined(case: Case, parts: list[Array], dim: int) -> Array:
    """The parts one after another; numpy alone would make them native in byte order."""
    return np.concatenate(parts, dim, dtype=case.kind, casting="equiv")


def reduced(case: Case, operands: list[Array]) -> Array:
    """All operands combined from left to right, in their dtype."""
    if case.op in TRUTHS:
        truths = np.stack([x != 0 for x in operands])
        return np.asarray(TRUTHS[case.op](truths, axis=0)).astype(case.kind)
    fold = FOLDS.get(case.op, OPS[case.op])
    with np.errstate(all="ignore"):
        whole = functools.reduce(lambda a, b: np.asarray(fold(a, b)).astype(case.kind), operands)
        return np.asarray(whole / len(operands)).astype(case.kind) if case.op == "mean" else whole


def slack(case: Case, operands: list[Array]) -> Array | None:
    """How far each element of a reduction may be from numpy's; None where it must be equal.

    Every one of the roundings is at most eps of the largest intermediate result, which the sum or
    the product of absolute values bounds.
    """
    finfo: Any = ml_dtypes.finfo  # has no annotations
    is_float = case.kind.kind in "fc" or case.dtype in SMALL_FLOATS
    if not is_float or case.op in CHOICES | TRUTHS.keys() | ORDERED.keys():
        return None
    if case.data == "small" and case.op != "mean":
        return None
    wide = np.stack([np.abs(x.astype(np.clongdouble)) for x in operands])
    bound = wide.prod(0) if case.op in ("prod", "np.multiply") else wide.sum(0)
    return np.asarray(8 * len(operands) * float(finfo(case.kind).eps) * bound)


def compare(case: Case, got: list[Array | None]) -> None:
    """Compare the values of all ranks with numpy's, and those that all get with one another."""
    size = len(got)
    wanted = expected(case, size)
    margin = slack(case, case.operands(size)) if case.collective in REDUCING else None
    margins: list[Array | None] = [margin] * size
    if margin is not None and case.collective == "reduce_scatter":
        margins = [*np.array_split(np.atleast_1d(margin), size, case.dim)]
    for rank, (mine, want, near) in enumerate(zip(got, wanted, margins, strict=True)):
        assert (mine is None) == (want is None), (rank, mine)
        if mine is None or want is None:
            continue
        assert (mine.dtype, mine.shape) == (want.dtype, want.shape), rank
        if near is not None:
            with np.errstate(invalid="ignore"):
                error = np.abs(mine.astype(np.clongdouble) - want.astype(np.clongdouble))
            assert (error <= near).all(), (rank, mine, want)
        elif case.collective in REDUCING:  # zeros of both signs are equal
            np.testing.assert_array_equal(comparable(mine), comparable(want), f"rank {rank}")
        else:
            assert bits(mine) == bits(want), (rank, mine, want)
    if case.collective == "allreduce" and case.algorithm != "mpi":
        different = {bits(mine) for mine in got if mine is not None}
        assert len(different) == 1, f"ranks differ in their bits: {got}"


def comparable(x: Array) -> Array:
    """numpy's own comparisons know no small floats."""
    return x.astype(np.float32) if x.dtype.type.__module__ == "ml_dtypes" else x


def bits(x: Array) -> bytes:
    """The bytes that mean something: of a long double of x86, ten."""
    if x.dtype.char not in "gG":
        return x.tobytes()
    parts = np.ascontiguousarray(x).reshape(-1).view(np.longdouble)
    meant = 10 if np.finfo(np.longdouble).nmant == 63 else parts.itemsize
    return parts.view(np.uint8).reshape(-1, parts.itemsize)[:, :meant].tobytes()


@dataclass(frozen=True)
class Plan:
    """Groups of ranks that make the same calls at the same time; () is the world.

    `splits` and `deferred` are those of a Job.
    """

    groups: tuple[tuple[int, ...], ...]
    splits: bool
    deferred: bool
    cases: tuple[Case, ...]

    def jobs(self, ranks: int) -> list[Job]:
        """What every rank is told."""
        if not self.groups:
            return [Job(self.calls(rank, ranks), deferred=self.deferred) for rank in range(ranks)]
        jobs = []
        for rank in range(ranks):
            color = next((i for i, group in enumerate(self.groups) if rank in group), None)
            members = () if color is None else self.groups[color]
            calls = self.calls(members.index(rank), len(members)) if members else ()
            jobs.append(Job(calls, members, color, self.splits, self.deferred))
        return jobs

    def calls(self, rank: int, size: int) -> tuple[Call, ...]:
        return tuple(call(case, rank, size) for case in self.cases)


def call(case: Case, rank: int, size: int) -> Call:
    """A case as one rank's call."""
    keywords: dict[str, Any] = {"algorithm": case.algorithm}
    operands = case.operands(size)
    has_mistake = bool(mistakes(case, size))
    root = case.root if case.root == NOWHERE else case.root % size
    if case.collective == "barrier":
        return Call("barrier", None, keywords)
    if case.collective in REDUCING:
        keywords["op"] = OPS.get(case.op, case.op)
    if case.collective in ROOTED:
        keywords["root"] = root
    if case.collective == "alltoall":
        keywords |= {"split_dim": case.dim, "concat_dim": case.other}
    elif case.collective in WITH_DIM:
        keywords["dim"] = case.dim
    if case.counts and not has_mistake:
        keywords["counts"] = case.lengths(operands)
    x: Array | None = operands[rank]
    if case.collective in FROM_ROOT and rank != root:
        x = None if case.seed % 2 else np.zeros(3, np.int8)  # is not looked at
    if case.into == "wrong":
        shape: tuple[int, ...] = (*case.shape, 2, 2)
        return Call(case.collective, x, keywords, case.layout, "c", shape, case.kind)
    gives = not (case.collective in TO_ROOT and rank != root)
    result = None if has_mistake else expected(case, size)[rank]
    shape = case.shape if result is None else result.shape
    into = "" if has_mistake else case.into
    return Call(case.collective, x, keywords, case.layout, into, shape, case.kind, gives)


def verify(plan: Plan, ranks: int, answers: list[list[Answer]]) -> None:
    """Check what all ranks answered."""
    for group in plan.groups or (tuple(range(ranks)),):
        theirs = [answers[rank] for rank in group]
        for number, case in enumerate(plan.cases):
            check(case, [answer[number] for answer in theirs])
        assert all(works(answer) for answer in theirs), (plan, theirs)


def works(answers: list[Answer]) -> bool:
    """Whether the communicator of a rank was in order after its calls."""
    return not answers or (answers[-1].value is not None and bool(answers[-1].value))


def check(case: Case, answers: list[Answer]) -> None:
    """Check what the ranks of one group answered to one call."""
    allowed = mistakes(case, len(answers))
    errors = {answer.error for answer in answers}
    if allowed:
        assert len(errors) == 1 and errors <= allowed, (case, allowed, answers)
        return
    assert errors == {""}, (case, answers)
    assert not any(answer.flaws for answer in answers), (case, answers)
    compare(case, [answer.value for answer in answers])


def algorithms(collective: str, op: str) -> st.SearchStrategy[str]:
    known = TABLE[collective].items()
    fit = [name for name, e in known if op not in ORDERED or (e.ordered and e.whole)]
    return st.one_of(st.sampled_from(["auto", "mpi"]), *[st.just(name) for name in fit])


def ops() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(list(OPS)), st.sampled_from(list(ORDERED)))


def rarely(usual: st.SearchStrategy[Any], other: Any) -> st.SearchStrategy[Any]:
    """One time in sixty, a mistake."""
    return st.integers(0, 59).flatmap(lambda n: st.just(other) if n == 41 else usual)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A call, mostly without a mistake."""
    collective = draw(st.sampled_from([*TABLE, *REDUCING]))
    moves = collective not in REDUCING
    op = "sum" if moves else draw(rarely(ops(), "avg"))
    unfit = draw(st.sampled_from([*TABLE[collective], "rong"]))
    algorithm = draw(rarely(algorithms(collective, op), unfit))
    if collective == "barrier":
        return Case(collective, algorithm)
    dtype, shape = draw(kinds(collective, op)), draw(shapes(op))
    ndim = max(len(shape), 1)
    dims = rarely(st.integers(-ndim, ndim - 1), NOWHERE)
    layout = draw(
        st.sampled_from(["c", "c", "fortran", "spread", "reversed", "unaligned", "frozen", "list"])
    )
    wants_wrong = collective not in TO_ROOT
    into = st.sampled_from(["", "", "x", "overlap", "c", "fortran", "spread", "unaligned"])
    place = draw(rarely(into, "wrong") if wants_wrong else into)
    if dtype == "O" or (layout == "list" and not (dtype in "?ldD" and 0 not in shape)):
        layout = "c"
    if layout in ("frozen", "list") and place == "x":
        layout = "c"
    uneven = (
        st.tuples(*[st.integers(0, 3)] * 4)
        if collective in UNEVEN and shape
        else st.just((0,) * 4)
    )
    return Case(
        collective,
        algorithm,
        dtype,
        shape,
        op,
        root=draw(rarely(st.integers(0, 3), NOWHERE)),
        dim=draw(dims),
        other=draw(dims),
        data=draw(data_of(moves, op, dtype, algorithm)),
        seed=draw(st.integers(0, 99)),
        layout=layout,
        into=place,
        uneven=draw(uneven),
        counts=collective in UNEVEN and draw(st.booleans()),
        misfit=dtype != "O" and draw(rarely(st.just(False), collective in UNEVEN)),
    )


def kinds(collective: str, op: str) -> st.SearchStrategy[str]:
    if op == "np.matmul":
        return st.sampled_from("bhilqBHILQfdFD")
    names = NUMBERS if collective in REDUCING else [*NUMBERS, *OTHERS]
    known = st.sampled_from(names)
    return known if collective in FROM_ROOT else rarely(known, "O")


def shapes(op: str) -> st.SearchStrategy[tuple[int, ...]]:
    if op == "np.matmul":
        return st.integers(0, 5).map(lambda n: (n, n))
    small = st.lists(st.sampled_from(LENGTHS), max_size=3).map(tuple)
    return st.one_of(small, small, small, st.sampled_from(LONG))


def data_of(moves: bool, op: str, dtype: str, algorithm: str) -> st.SearchStrategy[str]:
    """Sums of huge floats depend on their order, and what MPI does with NaN is its own affair."""
    if op in ("affine", "np.matmul") and dtype not in "bhilqBHILQ":
        return st.just("small")
    is_integer = dtype in "?bhilqBHILQ" or dtype == ">i4"
    limits = moves or is_integer or (op in CHOICES and algorithm != "mpi")
    return st.sampled_from(["small", "any", "limits"] if limits else ["small", "any"])


@st.composite
def plans(draw: st.DrawFn, ranks: int) -> Plan:
    """Calls on the world, or on one or two groups in any order of ranks."""
    groups: tuple[tuple[int, ...], ...] = ()
    if draw(st.booleans()):
        order = draw(st.permutations(range(ranks)))
        cuts = sorted(draw(st.tuples(st.integers(1, ranks), st.integers(1, ranks))))
        pairs = itertools.pairwise((0, *cuts))
        groups = tuple(tuple(order[a:b]) for a, b in pairs if a < b)
    splits = bool(groups) and draw(st.booleans())
    calls = st.lists(cases(), min_size=1, max_size=3).map(tuple)
    return Plan(groups, splits, draw(st.booleans()), draw(calls))


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(request.param) as pool:
        yield pool


def run(pool: Pool, plan: Plan) -> None:
    # Time enough on a busy machine; less once it is known that ranks hang, to shrink the case.
    answers = pool.ask(plan.jobs(pool.ranks), limit=3 if pool.losses else 15)
    if not all(works(answer) for answer in answers):
        pool.abandon()  # new ranks for the next case
    verify(plan, pool.ranks, answers)


COMMON = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


@settings(COMMON, derandomize=True, max_examples=400)
@given(data=st.data())
def test_random_calls_do_what_numpy_does(pool: Pool, data: st.DataObject) -> None:
    run(pool, data.draw(plans(pool.ranks)))


@pytest.mark.slow
@settings(COMMON, max_examples=2000)
@given(data=st.data())
def test_many_random_calls_do_what_numpy_does(pool: Pool, data: st.DataObject) -> None:
    run(pool, data.draw(plans(pool.ranks)))
