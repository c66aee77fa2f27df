"""What op may be, and what it may not."""

import operator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rankwise.collectives import local
from rankwise.collectives.communicator import Communicator
from rankwise.collectives.reduction import REDUCTIONS, Op, reduction

OPERANDS = np.array([[3, 5, 0, 0], [2, 7, 1, 0], [6, 1, 0, 0]])

EXPECTED = {
    "sum": OPERANDS.sum(0),
    "prod": OPERANDS.prod(0),
    "min": OPERANDS.min(0),
    "max": OPERANDS.max(0),
    "band": np.bitwise_and.reduce(OPERANDS),
    "bor": np.bitwise_or.reduce(OPERANDS),
    "bxor": np.bitwise_xor.reduce(OPERANDS),
    "land": OPERANDS.all(0),
    "lor": OPERANDS.any(0),
    "lxor": np.array([1, 1, 1, 0]),
    sum: OPERANDS.sum(0),
    min: OPERANDS.min(0),
    max: OPERANDS.max(0),
    np.add: OPERANDS.sum(0),
    np.fmax: OPERANDS.max(0),
    np.gcd: np.gcd.reduce(OPERANDS),
    operator.mul: OPERANDS.prod(0),
    (lambda a, b: a): OPERANDS[0],
    (lambda a, b: b): OPERANDS[2],
}


@pytest.mark.parametrize("op", EXPECTED, ids=lambda op: getattr(op, "__name__", op))
def test_it_is_what_numpy_makes_of_all_operands(op: Op) -> None:
    for result in local.run(3, lambda comm: comm.allreduce(OPERANDS[comm.rank], op)):
        assert result.dtype == OPERANDS.dtype
        np.testing.assert_array_equal(result, EXPECTED[op])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.complex64])
def test_mean_divides_by_the_number_of_ranks(dtype: Any) -> None:
    for result in local.run(4, lambda comm: comm.allreduce(np.full(3, comm.rank, dtype), "mean")):
        np.testing.assert_array_equal(result.astype(np.complex128), [1.5] * 3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("count", [1, 50_000])
def test_a_mean_of_two_bytes_is_divided_in_float32(dtype: Any, count: int) -> None:
    operands = np.random.default_rng(2).uniform(-1, 1, (3, count)).astype(dtype)
    expected = (operands[0].astype(np.float32) / np.float32(3)).astype(dtype)
    operands[1:] = 0
    for result in local.run(3, lambda comm: comm.allreduce(operands[comm.rank], "mean")):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("algorithm", ["ring", "tree", "recursive_doubling"])
@pytest.mark.parametrize("op", ["sum", "prod", "min", "max", "mean"])
def test_all_ranks_get_the_same_bits_of_two_bytes(dtype: Any, algorithm: str, op: str) -> None:
    values = np.random.default_rng(4).choice([1.0, -0.0, 0.0, 3e-8, 0.1, -2.7], (4, 40_000))

    def work(comm: Communicator) -> Any:
        return comm.allreduce(values[comm.rank].astype(dtype), op, algorithm=algorithm)

    results = local.run(4, work)
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint16), results[0].view(np.uint16))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_mean_of_what_has_no_fractions_is_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"'mean', got .*; use 'sum' or cast"):
        reduction("mean", np.dtype(dtype))


@pytest.mark.parametrize(
    ("op", "dtype"),
    [("band", "f4"), ("sum", "M8[s]"), ("prod", "U3"), ("sum", "V4"), ("max", "O")],
)
def test_what_numpy_cannot_do_is_a_type_error(op: str, dtype: str) -> None:
    with pytest.raises(TypeError):
        reduction(op, np.dtype(dtype))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"sum, prod, min, max, mean.*got 'avg'"):
        reduction("avg", np.dtype("f4"))
    with pytest.raises(TypeError, match="got 3"):
        reduction(3, np.dtype("f4"))  # type: ignore[arg-type]  # the mistake under test


def test_a_function_is_taken_as_one_that_does_not_commute() -> None:
    kind = np.dtype("f8")
    assert not reduction(lambda a, b: a, kind).commutative
    assert not reduction(np.subtract, kind).commutative
    assert not reduction(np.matmul, kind).commutative
    assert all(reduction(name, kind).commutative for name in ("sum", "min", "mean"))
    assert all(known.commutative for known in REDUCTIONS.values())


def test_a_single_rank_gets_truth_values_too() -> None:
    assert local.run(1, lambda comm: comm.allreduce([0, 5], "lor").tolist()) == [[0, 1]]


def test_an_operation_that_changes_the_shape_or_dtype_is_named() -> None:
    def work(comm: Communicator) -> None:
        comm.allreduce(np.ones((2, 2)), lambda a, b: np.ones(3))

    with pytest.raises(TypeError, match=r"op to return float64 \(2, 2\), got float64 \(3,\)"):
        local.run(2, work)
    with pytest.raises(TypeError, match=r"op to return int64 \(1,\), got float64 \(1,\)"):
        local.run(2, lambda comm: comm.allreduce([1], lambda a, b: (a + b) / 2))
