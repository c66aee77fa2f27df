"""Valid programs of several ranks, and what each rank gets, said by numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from programs import model

Array = NDArray[np.float32]


class Seed(NamedTuple):
    """A program, and what it computes."""

    models: list[ModelProto]
    expected: Callable[[list[Array]], Sequence[Array]]
    """the y of every rank, of the x of all"""


def fed(rank: int) -> Array:
    """What a rank is fed: small integers, so that sums are exact."""
    return np.arange(8, dtype=np.float32) * (rank + 1) - 3 * rank


def program(
    bodies: str | Sequence[str],
    expected: Callable[[list[Array]], Sequence[Array]],
    ranks: int = 3,
    mesh: str | None = None,
    length: int | str = 8,
) -> Seed:
    each = [bodies] * ranks if isinstance(bodies, str) else bodies
    ends = f"(float[{length}] x) => (float[k] y)"
    return Seed([model(whole(body), ends, mesh) for body in each], expected)


def whole(body: str) -> str:
    """Put constants c0 to c3 and [1] before a graph; VEC is what x is."""
    constants = " ".join(f"c{k} = Constant<value_int={k}>()" for k in range(4))
    constants += " matrix = Constant<value_ints=[1]>()"
    return f"{constants} {body}".replace("VEC", "FLOAT, shape=[8]")


SPMD = """
    r = R.Rank() n = R.Size() s = Add(r, c1) next = Mod(s, n)
    m = Add(r, n) p = Sub(m, c1) last = Mod(p, n)
"""

HALO = """
    a = Slice(x, f0, f2) b = Slice(x, f6, f8)
    t1 = R.Send<tag=1>(a, last) t2 = R.Send<tag=2>(b, next)
    left = R.Recv<FLOAT, tag=2, shape=[2]>(last) right = R.Recv<FLOAT, tag=1, shape=[2]>(next)
    y = Concat<axis=0>(left, x, right)
"""
EDGES = " ".join(f"f{k} = Constant<value_ints=[{k}]>()" for k in (0, 2, 6, 8))


def halo(xs: list[Array]) -> list[Array]:
    size = len(xs)
    return [np.concatenate([xs[r - 1][6:], xs[r], xs[(r + 1) % size][:2]]) for r in range(size)]


def pairs(xs: list[Array]) -> list[Array]:
    sums = [xs[0] + xs[1], xs[2] + xs[3]]
    return [np.maximum(*sums)] * 4


def mixed(xs: list[Array]) -> list[Array]:
    total = sum(xs[1:], xs[0])
    whole = np.concatenate(np.array_split(total, len(xs)))
    return [whole * len(xs)] * len(xs)


def exchanged(xs: list[Array]) -> list[Array]:
    return [np.concatenate([np.array_split(x, 4)[r] for x in xs]) for r in range(4)]


def rooted(xs: list[Array]) -> list[Array]:
    parts = np.array_split(xs[1], 3)
    gathered = np.concatenate([-part for part in parts])
    reduced = np.max(xs, 0)
    return [xs[0] + x for x in (reduced, xs[1], gathered)]


SEEDS: dict[str, Seed] = {
    "a ring": program(
        SPMD + "t = R.Send<tag=3>(x, next) y = R.Recv<VEC, tag=3>(last)",
        lambda xs: [xs[r - 1] for r in range(len(xs))],
    ),
    "a ring twice": program(
        SPMD + """
        t = R.Send<tag=1>(x, next) a = R.Recv<VEC, tag=1>(last) h = Concat<axis=0>(a, x)
        u = R.Send<tag=2>(h, last) y = R.Recv<FLOAT, tag=2, shape=[16]>(next)
        """,
        lambda xs: [np.concatenate([xs[r], xs[(r + 1) % 3]]) for r in range(3)],
    ),
    "halos": program(SPMD + EDGES + HALO, halo),
    "a tree": program(
        [
            "t2 = R.Send<tag=2>(x, c2) t1 = R.Send<tag=1>(x, c1) a = R.Recv<VEC, tag=4>(c1) "
            "b = R.Recv<VEC, tag=5>(c2) s = Add(x, a) y = Add(s, b)",
            "a = R.Recv<VEC, tag=1>(c0) y = Neg(a) t = R.Send<tag=4>(x, c0)",
            "a = R.Recv<VEC, tag=2>(c0) t = R.Send<tag=3>(a, c3) b = R.Recv<VEC, tag=6>(c3) "
            "y = Add(x, b) u = R.Send<tag=5>(y, c0)",
            "a = R.Recv<VEC, tag=3>(c2) y = Abs(a) u = R.Send<tag=6>(x, c2)",
        ],
        lambda xs: [xs[0] + xs[1] + (xs[2] + xs[3]), -xs[0], xs[2] + xs[3], np.abs(xs[0])],
    ),
    "a pipeline": program(
        [
            "a = Abs(x) t1 = R.Send<tag=1>(a, c1) b = Neg(x) t2 = R.Send<tag=2>(b, c1) y = Neg(a)",
            "a = R.Recv<VEC, tag=1>(c0) b = Add(a, x) t1 = R.Send<tag=1>(b, c2) "
            "c = R.Recv<VEC, tag=2>(c0) y = Mul(c, x) t2 = R.Send<tag=2>(y, c2)",
            "a = R.Recv<VEC, tag=1>(c1) b = R.Recv<VEC, tag=2>(c1) y = Concat<axis=0>(a, b)",
        ],
        lambda xs: [
            -np.abs(xs[0]), -xs[0] * xs[1], np.concatenate([np.abs(xs[0]) + xs[1], -xs[0] * xs[1]])
        ],
    ),
    "a server": program(
        [
            "a = R.Recv<VEC>(c1) b = R.Recv<FLOAT, shape=[16]>(c2) s = Concat<axis=0>(a, b) "
            "y = R.Broadcast(s)",
            "t = R.Send(x, c0) y = R.Broadcast<FLOAT>()",
            "h = Concat<axis=0>(x, x) t = R.Send(h, c0) y = R.Broadcast<FLOAT>()",
        ],
        lambda xs: [np.concatenate([xs[1], xs[2], xs[2]])] * 3,
    ),
    "collectives": program(
        "a = R.AllReduce(x) part = R.ReduceScatter(x) t = R.Barrier() b = R.AllGather(part, t) "
        'h = Add(a, b) z = R.AllReduce<op="max">(h) m = Sub(z, a) w = R.AllReduce<op="min">(m) '
        "y = R.AllReduce(w)",
        mixed,
    ),
    "all to all": program(
        "y = R.AllToAll(x)", exchanged, ranks=4
    ),
    "groups": program(
        "a = R.AllReduce<groups=[0, 1, 2, 3], group_size=2>(x) "
        'y = R.AllReduce<op="max", groups=[0, 2, 1, 3], group_size=2>(a)',
        pairs, ranks=4,
    ),
    "a mesh": program(
        'a = R.AllReduce<axis_name="tp">(x) y = R.AllReduce<op="max", axis_name="pp">(a)',
        pairs, ranks=4, mesh="pp=2,tp=2",
    ),
    "lengths that a run knows": program(
        SPMD
        + """
        a = R.AllReduce(x) t = R.Send<tag=1>(a, next) b = R.Recv<VEC, tag=1>(last)
        g = R.Gather(x) c = R.Broadcast<root=2>(x) d = R.Reduce<root=1, op="min">(c) y = Add(b, d)
        """,
        lambda xs: [sum(xs[1:], xs[0]) + xs[2]] * 3,
        length="n",
    ),
    "roots": program(
        [
            "part = R.Scatter<root=1, FLOAT>() n = Neg(part) g = R.Gather<root=2>(n) "
            'm = R.Reduce<root=0, op="max">(x) b = R.Broadcast(x) y = Add(b, m)',
            "part = R.Scatter<root=1>(x) n = Neg(part) g = R.Gather<root=2>(n) "
            'm = R.Reduce<root=0, op="max">(x) b = R.Broadcast<FLOAT>() y = Add(b, m)',
            "part = R.Scatter<root=1, FLOAT>() n = Neg(part) g = R.Gather<root=2>(n) "
            'm = R.Reduce<root=0, op="max">(x) b = R.Broadcast<FLOAT>() y = Add(b, g)',
        ],
        rooted,
    ),
}  # fmt: skip
"""without control flow"""

CONTROL: dict[str, Seed] = {
    "a loop with a ring": program(
        SPMD
        + """
        go = Constant<value = bool {1}>() trips = Sub(n, c1)
        z, y = Loop (trips, go, x, x) <body = b (i, d, v, q) => (e, w, u) {
            e = Identity(d) t = R.Send(v, next) w = R.Recv<VEC>(last) u = Add(q, w)
        }>
        """,
        lambda xs: [sum(xs[1:], xs[0])] * len(xs),
    ),
    "an If on the rank": program(
        SPMD
        + """
        first = Equal(r, c0)
        y = If (first) <
            then_branch = f () => (a) {
                s1 = R.Send<tag=1>(x, c1) s2 = R.Send<tag=1>(x, c2)
                p = R.Recv<VEC, tag=3>(c1) q = R.Recv<VEC, tag=3>(c2) a = Sub(p, q) },
            else_branch = g () => (b) {
                b = R.Recv<VEC, tag=1>(c0) h = Add(b, x) s3 = R.Send<tag=3>(h, c0) }>
        """,
        lambda xs: [xs[1] - xs[2], xs[0], xs[0]],
    ),
    "an If on what is reduced": program(
        """
        top = ReduceMax<keepdims=0>(x) all = R.AllReduce<op="max">(top)
        half = Constant<value_float=0.5>() big = Greater(all, half)
        y = If (big) <then_branch = f () => (a) { a = R.AllReduce(x) },
                      else_branch = g () => (b) { b = Neg(x) }>
        """,
        lambda xs: [sum(xs[1:], xs[0])] * len(xs),
    ),
    "a loop of reductions": program(
        """
        go = Constant<value = bool {1}>()
        y = Loop (c2, go, x) <body = b (i, d, v) => (e, w) { e = Identity(d)
            w = R.AllReduce<op="max">(v) }>
        """,
        lambda xs: [np.max(xs, 0)] * len(xs),
    ),
}
