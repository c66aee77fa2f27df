"""Small programs with a mistake, and their mended twins.

Each entry: the wrong program, the mended one, the kind of the finding, and a part of its text.
"""

TO_1 = "one = Constant<value_int=1>() t = R.Send(x, one)"
FROM_0 = "zero = Constant<value_int=0>() y = R.Recv<FLOAT>(zero)"
TAG_2 = "zero = Constant<value_int=0>() y = R.Recv<FLOAT, tag=2>(zero)"
IN_OTHER_GROUP = "one = Constant<value_int=1>() y = R.Recv<FLOAT, groups=[1, 0]>(one)"
COLUMN = "d = Constant<value_ints=[1]>() m = Unsqueeze(x, d)"
NEXT = """
    one = Constant<value_int=1>() r = R.Rank() n = R.Size() s = Add(r, one) next = Mod(s, n)
    m = Add(r, n) p = Sub(m, one) last = Mod(p, n)
"""
FLAG = "i = Constant<value_int=0>() e = Gather(x, i) f = Constant<value_float=0.5>() "
ONE_WAY = """
    y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                else_branch = e () => (b) { b = Neg(x) }>
"""


CASES = {
    "a Send without its Recv": (
        [f"{TO_1} y = Neg(x)", "y = Neg(x)"],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "unmatched",
        "rank 0, Send 't': expected a Recv of rank 1 with tag 0, but that rank ends without one",
    ),
    "a Recv without its Send": (
        ["y = Neg(x)", FROM_0],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "unmatched",
        "rank 1, Recv 'y': expected a Send of rank 0 with tag 0, but that rank ends without one",
    ),
    "a collective that a rank is absent from": (
        ["y = R.AllReduce(x)", "y = Neg(x)"],
        ["y = R.AllReduce(x)", "y = R.AllReduce(x)"],
        "unmatched",
        "rank 0, AllReduce 'y': expected rank 1 to call it too, but that rank ends",
    ),
    "another tag": (
        [f"{TO_1} y = Neg(x)", TAG_2],
        [f"{TO_1} y = Neg(x)".replace("Send(", "Send<tag=2>("), TAG_2],
        "mismatch",
        "rank 1, Recv 'y': expected tag 2, but Send 't' of rank 0 has 0",
    ),
    "another type": (
        [f"{TO_1} y = Neg(x)", FROM_0.replace("FLOAT", "dtype=11")],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "mismatch",
        "Recv 'y': expected float64 of any shape, but Send 't' of rank 0 gives float32 [4]",
    ),
    "another shape": (
        [f"{TO_1} y = Neg(x)", FROM_0.replace("FLOAT", "FLOAT, shape=[2, 2]")],
        [f"{TO_1} y = Neg(x)", FROM_0.replace("FLOAT", "FLOAT, shape=[4]")],
        "mismatch",
        "rank 1, Recv 'y': expected float32 [2, 2], but Send 't' of rank 0 gives float32 [4]",
    ),
    "a rank that is none": (
        NEXT + "t = R.Send(x, s) y = R.Recv<FLOAT>(last)",
        NEXT + "t = R.Send(x, next) y = R.Recv<FLOAT>(last)",
        "mismatch",
        "rank 1, Send 't': expected dest to be a rank below 2, got 2",
    ),
    "operands of another type": (
        ["y = R.AllReduce(x)", "h = Cast<to=11>(x) y = R.AllReduce(h)"],
        ["y = R.AllReduce(x)", "h = Cast<to=1>(x) y = R.AllReduce(h)"],
        "mismatch",
        "AllReduce 'y': expected dtype float32, as in AllReduce 'y' of rank 0, got float64",
    ),
    "operands of another shape": (
        ["y = R.AllReduce(x)", "h = Concat<axis=0>(x, x) y = R.AllReduce(h)"],
        ["y = R.AllGather(x)", "h = Concat<axis=0>(x, x) y = R.AllGather(h)"],
        "mismatch",
        "rank 1, AllReduce 'y': expected shape [4], as in AllReduce 'y' of rank 0, got [8]",
    ),
    "another reduction": (
        ["y = R.AllReduce(x)", 'y = R.AllReduce<op="max">(x)'],
        ["y = R.AllReduce(x)", 'y = R.AllReduce<op="sum">(x)'],
        "mismatch",
        "rank 1, AllReduce 'y': expected op 'sum', as in AllReduce 'y' of rank 0, got 'max'",
    ),
    "another dim": (
        ["y = R.AllGather(x)", f"{COLUMN} y = R.AllGather<dim=1>(m)"],
        ["y = R.AllGather(x)", "y = R.AllGather<dim=-1>(x)"],
        "mismatch",
        "rank 1, AllGather 'y': expected dim 0, as in AllGather 'y' of rank 0, got 1",
    ),
    "another root": (
        ["y = R.Broadcast(x)", "y = R.Broadcast<root=1>(x)"],
        ["y = R.Broadcast<root=1>(x)", "y = R.Broadcast<root=1>(x)"],
        "mismatch",
        "rank 1, Broadcast 'y': expected root 0, as in Broadcast 'y' of rank 0, got 1",
    ),
    "another operator": (
        ["y = R.AllReduce(x)", "z = R.AllGather(x) y = Neg(z)"],
        ["y = R.AllGather(x)", "z = R.AllGather(x) y = Neg(z)"],
        "mismatch",
        "rank 1, AllGather 'z': expected op AllReduce, as in AllReduce 'y' of rank 0",
    ),
    "another group": (
        ["y = R.AllReduce<groups=[0, 1]>(x)", *["y = R.AllReduce(x)"] * 2],
        ["y = R.AllReduce(x)"] * 3,
        "mismatch",
        "rank 0, AllReduce 'y': expected group [0, 1], but AllReduce 'y' of rank 1 has [0, 1, 2]",
    ),
    "messages of another group": (
        [f"{TO_1} y = Neg(x)", IN_OTHER_GROUP],
        [f"{TO_1} y = Neg(x)", FROM_0],
        "mismatch",
        "rank 1, Recv 'y': expected group [1, 0], but Send 't' of rank 0 has [0, 1]",
    ),
    "another order, of the same kind": (
        ["a = R.AllReduce(x) z = Neg(x) b = R.AllReduce(z) y = Add(a, b)",
         "z = Neg(x) b = R.AllReduce(z) a = R.AllReduce(x) y = Add(a, b)"],
        ["a = R.AllReduce(x) z = Neg(x) b = R.AllReduce(z) y = Add(a, b)",
         "z = Neg(x) a = R.AllReduce(x) b = R.AllReduce(z) y = Add(a, b)"],
        "order",
        "rank 1, AllReduce 'b': expected AllReduce 'a', as rank 0 calls it here",
    ),
    "another order, over two groups": (
        ["a = R.AllReduce<groups=[0, 1]>(x) y = R.AllReduce<groups=[1, 0]>(a)",
         "a = R.AllReduce<groups=[1, 0]>(x) y = R.AllReduce<groups=[0, 1]>(a)"],
        ["a = R.AllReduce<groups=[0, 1]>(x) y = R.AllReduce<groups=[1, 0]>(a)"] * 2,
        "mismatch",
        "expected group [0, 1], but AllReduce 'a' of rank 1 has [1, 0]",
    ),
    "a deadlock of receivers": (
        NEXT + "y = R.Recv<FLOAT>(last) t = R.Send(x, next)",
        NEXT + "t = R.Send(x, next) y = R.Recv<FLOAT>(last)",
        "deadlock",
        "deadlock: Recv 'y' of rank 0 waits for rank 1, Recv 'y' of rank 1 waits for rank 0",
    ),
    "a deadlock of a receiver and a collective": (
        [f"a = R.AllReduce(x) {TO_1} y = Neg(a)", f"{FROM_0} z = R.AllReduce(x)"],
        [f"{TO_1} y = R.AllReduce(x)", f"{FROM_0} z = R.AllReduce(x)"],
        "deadlock",
        "deadlock: AllReduce 'a' of rank 0 waits for rank 1, Recv 'y' of rank 1 waits for rank 0",
    ),
    "a branch that one rank takes": (
        NEXT + "c = Equal(r, one)" + ONE_WAY,
        NEXT + "c = Equal(n, one)" + ONE_WAY,
        "unmatched",
        "rank 1, AllReduce 'a': expected rank 0 to call it too, but that rank ends",
    ),
    "a branch that one rank may take alone": (
        FLAG + "c = Greater(e, f)" + ONE_WAY,
        FLAG + "g = R.Broadcast(e) c = Greater(g, f)" + ONE_WAY,
        "branch",
        "rank 0, If 'y': expected a condition that is the same on rank 1, since it decides on "
        "AllReduce 'a'; Broadcast it first",
    ),
    "ranks that negate what others decide on": (
        [FLAG + "g = R.Broadcast(e) c = Greater(g, f)" + ONE_WAY,
         FLAG + "g = R.Broadcast(e) d = Greater(g, f) c = Not(d)" + ONE_WAY],
        [FLAG + "g = R.Broadcast(e) c = Greater(g, f)" + ONE_WAY,
         FLAG + "g = R.Broadcast(e) d = Greater(g, f) h = Not(d) c = Not(h)" + ONE_WAY],
        "unmatched",
        "expected rank 1 to call it too",
    ),
    "a loop that ends earlier on one rank": (
        NEXT + "c = Constant<value = bool {1}>() k = Add(r, one)"
        "y = Loop (k, c, x) <body = b (i, d, v) => (e, w) { e = Identity(d) w = R.AllReduce(v) }>",
        NEXT + "c = Constant<value = bool {1}>() k = Add(n, one)"
        "y = Loop (k, c, x) <body = b (i, d, v) => (e, w) { e = Identity(d) w = R.AllReduce(v) }>",
        "unmatched",
        "rank 1, AllReduce 'w': expected rank 0 to call it too",
    ),
}  # fmt: skip
