"""What counts as equal to the unsharded model."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import MLP

from rankwise.models.errors import ModelError
from rankwise.runtime.compare import compare, find_source, run_whole

ONES = np.ones(3, np.float32)


def test_the_largest_difference_is_told_and_judged_by_both_tolerances() -> None:
    found = compare({"a": ONES, "b": ONES * 100}, {"a": ONES, "b": ONES * 100.05}, 1e-3, 1e-4)
    assert found.equal
    assert found.outputs["a"] == 0
    assert found.max_abs_diff == pytest.approx(0.05, rel=1e-3)
    assert not compare({"b": ONES * 100}, {"b": ONES * 100.05}, 1e-4, 1e-4).equal


def test_equal_nan_and_infinity_have_no_difference_and_a_lone_nan_the_largest() -> None:
    odd = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert compare({"a": odd}, {"a": odd}, 0, 0).as_json() == {
        "equal": True,
        "max_abs_diff": 0.0,
        "outputs": {"a": 0.0},
    }
    lone = compare({"a": ONES * np.float32(np.nan)}, {"a": ONES}, 1, 1)
    assert not lone.equal
    assert lone.max_abs_diff is not None
    assert lone.max_abs_diff > 1e300


def test_another_shape_or_type_is_unequal_without_a_number() -> None:
    for other in (np.ones(4, np.float32), np.ones(3)):
        found = compare({"a": ONES, "b": ONES}, {"a": other, "b": ONES}, 1, 1)
        assert (found.equal, found.max_abs_diff, found.outputs["a"]) == (False, None, None)


def test_integers_bools_strings_and_bfloat16_are_compared() -> None:
    for array in (
        np.array([1, 2]),
        np.array([True, False]),
        np.array(["a", "b"], object),
        np.ones(2, ml_dtypes.bfloat16),
        np.array([1 + 2j]),
        np.empty((0, 2), np.float32),
    ):
        assert compare({"a": array}, {"a": array.copy()}, 0, 0).equal
    assert not compare({"a": np.array([1, 2])}, {"a": np.array([1, 3])}, 0, 0.5).equal
    words = np.array(["a"], object), np.array(["b"], object)
    assert not compare({"a": words[0]}, {"a": words[1]}, 0, 0).equal


def test_lists_of_tensors_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="'a' is no tensor"):
        compare({"a": [ONES]}, {"a": [ONES]}, 0, 0)


def test_the_whole_model_is_run_with_the_same_feeds(tmp_path: Path) -> None:
    onnx.save(MLP.model, tmp_path / "m.onnx")
    y = run_whole(str(tmp_path / "m.onnx"), ["y"], MLP.feeds)["y"]
    weights = [onnx.numpy_helper.to_array(t) for t in MLP.model.graph.initializer]
    hidden = np.maximum(MLP.feeds["x"] @ weights[0] + weights[1], 0)
    np.testing.assert_allclose(y, hidden @ weights[2] + weights[3], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="cannot run"):
        run_whole(str(tmp_path / "m.onnx"), ["y"], {"x": ONES})


def test_a_model_that_communicates_has_no_whole(tmp_path: Path) -> None:
    header = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
    text = f"{header} g (float[n] x) => (float[n] y) {{ y = rankwise.AllReduce(x) }}"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="--source, or leave --compare out"):
        find_source(str(tmp_path / "m.onnx"), None)
