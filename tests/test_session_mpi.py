"""Sessions over real MPI, where a message may be under way long after its send."""

import subprocess
from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

PROGRAM = """
import numpy as np
from mpi4py import MPI
from onnx import numpy_helper, parser
import rankwise

model = parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>
    g (float[n] x) => (float[n] y, float[n] total) {
        r = rankwise.Rank() p = rankwise.Size()
        ahead = Add(r, one) right = Mod(ahead, p) behind = Add(ahead, p) other = Sub(behind, two)
        left = Mod(other, p)
        h = Neg(x)
        token = rankwise.Send(h, right)
        total = rankwise.AllReduce(h, token)
        y = rankwise.Recv<dtype=1>(left)
    }''')
for name, value in (("one", 1), ("two", 2)):
    model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
world = MPI.COMM_WORLD
x = np.full(1 << 20, 1.0 + world.rank, np.float32)  # far too long to be sent unasked
with rankwise.InferenceSession(model.SerializeToString(), comm=world) as session:
    for _ in range(3):
        y, total = session.run(None, {"x": x})
        assert (y == -1.0 - (world.rank - 1) % world.size).all(), y
        assert (total == -sum(range(1, world.size + 1))).all(), total
        assert session.trace.operators["Send"].bytes > x.nbytes
    assert (x == 1.0 + world.rank).all()
assert world.allreduce(1) == world.size  # the session had a communicator of its own
"""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_long_sends_around_a_ring_neither_block_nor_change_under_way(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], ranks: int
) -> None:
    done = mpirun(ranks, PROGRAM)
    assert done.returncode == 0, done.stderr


GROUPS = """
import numpy as np
from mpi4py import MPI
from onnx import parser
import rankwise

rank = MPI.COMM_WORLD.rank

def model(body):
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1, "other" : 1]>'
    text = f"{header} g (float[n] x) => (float[n] y) {{ {body} }}"
    return parser.parse_model(text).SerializeToString()

def run(body):
    with rankwise.InferenceSession(model(body)) as session:
        return session.run(None, {"x": np.full(2, rank, np.float32)})[0].tolist()

# Sends on three groups that overlap.
def place(one, other):  # the group of this rank and another, and that one's number in it
    pair = sorted((one, other))
    return pair, pair.index(other)

(right, dest), (left, source) = place(rank, (rank + 1) % 3), place(rank, (rank - 1) % 3)
got = run(
    f"d = Constant<value_int={dest}>() s = Constant<value_int={source}>()"
    f"t = rankwise.Send<groups={right}>(x, d) y = rankwise.Recv<dtype=1, groups={left}>(s)"
)
assert got == [(rank - 1) % 3] * 2, got

# A group that one of its ranks alone names.
of_first = "r = rankwise.Rank<groups=[1, 0]>() f = Cast<to=1>(r) v = Add(x, f)"
got = run((of_first if rank == 0 else "v = Identity(x)") + " y = rankwise.AllReduce(v)")
assert got == [4, 4], got

# An operator that onnxruntime refuses on one rank of a group.
try:
    run(
        ("v = other.Unknown(x)" if rank == 0 else "v = Relu(x)")
        + f" y = rankwise.AllReduce<groups={[0, 1] if rank < 2 else [2]}>(v)"
    )
except ValueError as error:
    assert "other:Unknown" in str(error), error
else:
    raise AssertionError("expected ModelError")
"""


def test_no_rank_waits_for_others_to_make_a_group(
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = mpirun(3, GROUPS)
    assert done.returncode == 0, done.stderr
