"""Kernels of float16 and bfloat16: numpy's, onnxruntime's, and numba's where it is installed."""

import functools
import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rankwise.collectives import kernels, reduction
from rankwise.collectives.kernels import KERNELS, TILE_ELEMENTS, Array, Kernel, Operation
from rankwise.runtime import kernels as by_onnxruntime

HALF, BFLOAT = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
UFUNCS = {
    "sum": np.add, "prod": np.multiply, "div": np.divide, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
ROUNDING = [op for op in UFUNCS if KERNELS[op, "float16"].rounds]
NEEDS_NUMBA = pytest.mark.skipif(not kernels.HAS_NUMBA, reason="without the extra `kernels`")


def by_numpy(op: str, dtype: np.dtype[Any]) -> Operation:
    if dtype == HALF and op in ("min", "max"):
        return functools.partial(kernels.extreme_half, UFUNCS[op])
    kernel = kernels.half_in_float32 if dtype == HALF else kernels.in_float32
    return functools.partial(kernel, UFUNCS[op])


CASES = [
    *(
        pytest.param(op, dtype, by_numpy(op, dtype), id=f"numpy-{op}-{dtype}")
        for op, dtype in itertools.product(UFUNCS, (HALF, BFLOAT))
    ),
    *(
        pytest.param(
            op, dtype, functools.partial(kernels.compiled, op), id=f"numba-{op}-{dtype}",
            marks=NEEDS_NUMBA,
        )
        for op, dtype in itertools.product(UFUNCS, (HALF, BFLOAT))
    ),
    *(
        pytest.param(
            op, HALF, functools.partial(by_onnxruntime.combine, operator),
            id=f"onnxruntime-{op}-float16",
        )
        for op, operator in by_onnxruntime.OPERATORS.items()
    ),
]  # fmt: skip
every_kernel = pytest.mark.parametrize(("op", "dtype", "kernel"), CASES)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """As in the collectives, an overflow is a value and no warning."""
    with np.errstate(all="ignore"):
        yield


def interesting(dtype: np.dtype[Any]) -> Array:
    """Zeros, subnormals, the ends of binades, infinities, NaN, and others, of both signs."""
    bits = 10 if dtype == HALF else 7
    ends = np.arange(0, 0x8000, 1 << bits)
    near = (ends[:, None] + [-2, -1, 0, 1, 2, (1 << bits - 1) - 1, 1 << bits - 1]).ravel()
    some = np.random.default_rng(7).integers(0, 0x8000, 200)
    positive = np.unique(np.concatenate([near, some, np.arange(20)]).clip(0, 0x7FFF))
    return np.concatenate([positive, positive | 0x8000]).astype(np.uint16).view(dtype)


def pairs(dtype: np.dtype[Any]) -> tuple[Array, Array]:
    values = interesting(dtype)
    return np.repeat(values, values.size), np.tile(values, values.size)


def assert_same(got: Array, expected: Array, *, with_zeros: bool = True) -> None:
    """The same bits, but for NaN, and the sign of zero unless it matters."""
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), is_nan)
    differs = (got.view(np.uint16) != expected.view(np.uint16)) & ~is_nan
    if not with_zeros:
        differs &= expected != 0
        np.testing.assert_array_equal(got == 0, expected == 0)
    assert not differs.any(), (got[differs][:5], expected[differs][:5])


@every_kernel
def test_two_are_combined_as_numpy_and_ml_dtypes_do(
    op: str, dtype: np.dtype[Any], kernel: Operation
) -> None:
    left, right = pairs(dtype)
    out = np.empty_like(left)
    kernel(left, right, out=out)
    assert_same(out, UFUNCS[op](left, right), with_zeros=op not in ("min", "max"))


@every_kernel
def test_a_result_depends_on_no_length_offset_or_place(
    op: str, dtype: np.dtype[Any], kernel: Operation
) -> None:
    count = TILE_ELEMENTS + 300
    left = np.resize(np.array([0.0, -0.0, 1.5, -3, 0.1, -0.0, 0.0], dtype), count)
    right = np.roll(left, 1)
    whole = np.empty_like(left)
    kernel(left, right, out=whole)
    stops = [*range(60, 300, 7), by_onnxruntime.FEW_ELEMENTS + 50, count]
    for start, stop in itertools.product(range(0, 40, 3), stops):
        out = np.empty(stop, dtype)[start:]
        kernel(left[start:stop], right[start:stop], out=out)
        assert_same(out, whole[start:stop])


@every_kernel
@pytest.mark.parametrize("count", [0, 1, by_onnxruntime.FEW_ELEMENTS, TILE_ELEMENTS + 1])
def test_the_result_may_take_the_place_of_an_operand(
    op: str, dtype: np.dtype[Any], kernel: Operation, count: int
) -> None:
    left, right = np.random.default_rng(3).uniform(1, 2, (2, count)).astype(dtype)
    apart = np.empty_like(left)
    kernel(left, right, out=apart)
    for place in (left.copy(), right.copy()):
        operands = (place, right) if np.array_equal(place, left) else (left, place)
        kernel(*operands, out=place)
        assert_same(place, apart)


@pytest.mark.parametrize(("op", "dtype", "kernel"), [c for c in CASES if c.values[0] in ROUNDING])
@pytest.mark.parametrize("wide", [("left", "out"), ("out",), ("left",), ("right",)])
@pytest.mark.parametrize(
    "count", [99, by_onnxruntime.FEW_ELEMENTS, TILE_ELEMENTS + kernels.FEW_ELEMENTS]
)
def test_what_rounds_takes_and_gives_float32(
    op: str, dtype: np.dtype[Any], kernel: Operation, wide: tuple[str, ...], count: int
) -> None:
    rng = np.random.default_rng(5)
    left, right, out = (
        rng.uniform(-2, 2, count).astype(np.float32 if name in wide else dtype)
        for name in ("left", "right", "out")
    )
    expected = UFUNCS[op](left.astype(np.float32), right.astype(np.float32))
    kernel(left, right, out=out)
    np.testing.assert_array_equal(out, expected.astype(out.dtype))


EVERY_HALF = np.arange(1 << 16).astype(np.uint16).view(np.float16)


def test_all_of_float16_that_is_finite_is_widened() -> None:
    finite = EVERY_HALF[np.isfinite(EVERY_HALF)]
    out = kernels.widened(finite)
    assert out is not None
    expected = finite.astype(np.float32)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))
    for other in EVERY_HALF[~np.isfinite(EVERY_HALF)]:
        assert kernels.widened(np.array([1, other, 2], np.float16)) is None


@pytest.mark.parametrize("shift", [1, 5, 31, 1024, 1025, 0x3FFF, 0x7C01, 0x8000, 0xABCD])
def test_every_float16_is_added_to_others(shift: int) -> None:
    other = np.roll(EVERY_HALF, shift)
    # By themselves, and among tiles without infinities and NaN.
    below = [x.view(np.uint16) & 0xB7FF for x in (EVERY_HALF, other)]
    for left, right in ((EVERY_HALF, other), [x.view(np.float16) for x in below]):
        out = np.empty_like(left)
        kernels.half_in_float32(np.add, left, right, out=out)
        assert_same(out, left + right)
    assert kernels.is_below(kernels.HALF_SUMMABLE, left)


def test_all_that_lies_at_or_between_float16_is_rounded_to_even() -> None:
    every = EVERY_HALF[np.isfinite(EVERY_HALF)].astype(np.float64)
    between = ((every[1:] + every[:-1]) / 2).astype(np.float32)
    some = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, np.uint32).view(np.float32)
    wide = np.concatenate([
        every.astype(np.float32), between, some, np.nextafter(between, np.float32(np.inf)),
        np.nextafter(between, np.float32(-np.inf)),
        np.array([65519.996, 65520, 65536, 1e-8], np.float32),
    ])  # fmt: skip
    size = np.abs(wide)
    fits = (size >= 2.0**-14) & (size <= 65504)  # subnormals would be rounded twice
    fits[: every.size] = True
    ones, out = np.ones_like(wide), np.empty(wide.size, np.float16)
    kernels.half_in_float32(np.multiply, wide, ones, out=out)
    assert_same(out, wide.astype(np.float16))
    assert kernels.combined(np.multiply, wide[fits], ones[fits], out[: fits.sum()])
    assert_same(out[: fits.sum()], wide[fits].astype(np.float16))
    for few in ([65519.996], [np.inf], [np.nan], np.nextafter(between[:1], np.float32(1))):
        unfit = np.array([1, *few], np.float32)
        assert not kernels.combined(np.multiply, unfit, ones[:2], out[:2])


@pytest.mark.parametrize("dtype", [HALF, BFLOAT], ids=str)
@pytest.mark.parametrize("count", [0, 1, 100, 3 * TILE_ELEMENTS + 5])
@pytest.mark.parametrize("op", ["sum", "prod"])
def test_many_are_accumulated_in_float32_and_rounded_once(
    op: str, dtype: np.dtype[Any], count: int
) -> None:
    operands = list(np.random.default_rng(1).uniform(0.5, 1.5, (5, count)).astype(dtype))
    out = np.empty(count, dtype)
    reduction.reduction(op, dtype).many(operands, out)
    expected = functools.reduce(UFUNCS[op], [x.astype(np.float32) for x in operands])
    assert_same(out, expected.astype(dtype))


@pytest.mark.parametrize("dtype", [HALF, BFLOAT, np.dtype("f4"), np.dtype(">f2")], ids=str)
@pytest.mark.parametrize("op", ["min", "max", np.fmax, "mean"], ids=str)
@pytest.mark.parametrize("operands", [2, 3])
def test_many_of_what_needs_no_float32_are_combined_in_place(
    op: Any, dtype: np.dtype[Any], operands: int
) -> None:
    x = np.random.default_rng(1).integers(-9, 9, (operands, 100)).astype(dtype)
    ufunc = {"min": np.minimum, "mean": np.add}.get(op, np.maximum)
    expected = functools.reduce(ufunc, x)
    reduction.reduction(op, dtype).many(list(x), x[0])
    np.testing.assert_array_equal(x[0], expected)


def test_a_kernel_that_is_put_in_is_used_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reduction.reduction("sum", HALF)
    known = KERNELS["sum", "float16"]
    monkeypatch.setitem(KERNELS, ("sum", "float16"), known)
    mine = Kernel(lambda left, right, *, out: np.copyto(out, right), tile=64)
    reduction.put("sum", "float16", mine)
    for op in ("sum", "mean", np.add):
        assert reduction.reduction(op, HALF).function is mine.function
        assert reduction.reduction(op, HALF).tile == 64
    assert reduction.reduction("sum", BFLOAT).function is not mine.function
    reduction.put("sum", "float16", known)
    assert reduction.reduction("sum", HALF) == before


def test_only_what_is_known_can_be_put_in() -> None:
    with pytest.raises(ValueError, match=r"sum float16.*got xor float16"):
        reduction.put("xor", "float16", Kernel(np.bitwise_xor))


def test_the_runtime_puts_its_kernels_in_unless_numba_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for op in by_onnxruntime.OPERATORS:
        monkeypatch.setitem(KERNELS, (op, "float16"), KERNELS[op, "float16"])
    for has_numba, tile in ((True, kernels.TILE), (False, by_onnxruntime.TILE)):
        monkeypatch.setattr(by_onnxruntime, "HAS_NUMBA", has_numba)
        monkeypatch.setitem(KERNELS, ("sum", "float16"), Kernel(np.add))
        by_onnxruntime.install()
        assert KERNELS["sum", "float16"].tile == tile
    monkeypatch.undo()
    reduction.checked.cache_clear()
