"""RingAllReduceSum(rank, size, input): a ring as an ONNX function, generic in rank and size.

Loops and integer arithmetic over Send and Recv. It is the RingReduceSum of the ONNX working
group's slide with three mistakes mended. The slide adds size times where size - 1 is right, so
that every rank's own summand counts twice. Its ranks all send before they receive, and so wait for
each other for ever where a send waits for its receiver; here even ranks send first, and odd ones
receive first. And its vector has size elements; here any shape is cut into size blocks, as
numpy.array_split cuts. Block r begins at rank r + 1 and ends at rank r, as in the schedule of
collectives/algorithms/ring.py, so that sums have the same bits.
"""

from __future__ import annotations

from onnx import FunctionProto, parser

DOMAIN = "rankwise.functions"
"""The domain of collectives that are functions."""

OPERATORS = {"sum": "Add", "prod": "Mul", "min": "Min", "max": "Max"}

GROUP = "groups: ints = @groups, group_size: int = @group_size, axis_name: string = @axis_name"

TEXT = """
<domain: "{domain}", opset_import: ["" : {opset}, "rankwise" : 1]>
{name} <dtype, groups, group_size, axis_name> (rank, size, input, after) => (output, token)
{{
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_int = 2> ()
    flat_shape = Constant <value_ints = [-1]> ()
    shape = Shape (input)
    flat = Reshape (input, flat_shape)
    count = Size (flat)
    count_1 = Reshape (count, flat_shape)
    rank_1 = Reshape (rank, flat_shape)
    base = Div (count, size)
    rest = Mod (count, size)
    one_0 = Squeeze (one)
    above = Add (rank, one_0)
    succ = Mod (above, size)
    below = Sub (rank, one_0)
    pred = Mod (below, size)
    steps = Sub (size, one_0)
    odd = Mod (rank, two)
    is_odd = Cast <to = 9> (odd)
    behind = Sub (rank_1, one)
    {first_block}
    reduced = Loop (steps, , first) <body = reduce_scatter (int64 i, bool go, next) => (go_on, sum)
    {{
        go_on = Identity (go)
        {exchange}
        back = Sub (rank_1, i)
        back_two = Sub (back, two)
        {local_block}
        sum = {operator} (received, local)
    }}>
    {own_place}
    own_head = Slice (flat, zero, own_start)
    own_tail = Slice (flat, own_end, count_1)
    placed = Concat <axis = 0> (own_head, reduced, own_tail)
    last, whole = Loop (steps, , reduced, placed) <
        body = allgather (int64 i, bool go, next, blocks) => (go_on, received, filled)
    {{
        go_on = Identity (go)
        {exchange}
        back = Sub (rank_1, i)
        back_one = Sub (back, one)
        {place}
        head = Slice (blocks, zero, start)
        tail = Slice (blocks, end, count_1)
        filled = Concat <axis = 0> (head, received, tail)
    }}>
    output = Reshape (whole, shape)
    done = Size (last)
    token = Equal (done, done)
}}
"""

EXCHANGE = """
        received = If (is_odd) <
            then_branch = receive_first () => (came)
            {{
                came = rankwise.Recv <dtype: int = @dtype, {group}> (pred, after)
                sent = rankwise.Send <{group}> (next, succ)
            }},
            else_branch = send_first () => (came)
            {{
                sent = rankwise.Send <{group}> (next, succ, after)
                came = rankwise.Recv <dtype: int = @dtype, {group}> (pred)
            }}>
"""

PLACE = """
        {p}index = Mod ({index}, size)
        {p}next_index = Add ({p}index, one)
        {p}whole_start = Mul ({p}index, base)
        {p}more_start = Min ({p}index, rest)
        {p}start = Add ({p}whole_start, {p}more_start)
        {p}whole_end = Mul ({p}next_index, base)
        {p}more_end = Min ({p}next_index, rest)
        {p}end = Add ({p}whole_end, {p}more_end)
"""


def ring_name(op: str) -> str:
    """Return the name of the function of a reduction."""
    return f"RingAllReduce{op.capitalize()}"


def ring_function(op: str, opset: int) -> FunctionProto:
    """Return the function of a reduction, in operators of `opset`.

    Inputs are rank and size, int64 scalars, any tensor, and a token that may be absent; attributes
    are the tensor's dtype, and the group as every communication node has it. Raises ValueError for
    a reduction that has none.
    """
    if op not in OPERATORS:
        raise ValueError(f"expected a reduction of {', '.join(OPERATORS)} for a ring, got {op!r}")
    text = TEXT.format(
        domain=DOMAIN,
        opset=opset,
        name=ring_name(op),
        operator=OPERATORS[op],
        exchange=EXCHANGE.format(group=GROUP),
        first_block=_block("first", "behind", "first_"),
        local_block=_block("local", "back_two", ""),
        own_place=PLACE.format(p="own_", index="rank_1"),
        place=PLACE.format(p="", index="back_one"),
    )
    return parser.parse_function(text)


def _block(name: str, index: str, prefix: str) -> str:
    """Write the nodes that take a block out of the flat input."""
    place = PLACE.format(p=prefix, index=index)
    return f"{place} {name} = Slice (flat, {prefix}start, {prefix}end)"
