"""Arrays in npz files, and in onnxruntime's memory."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from rankwise.runtime import arrays


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    given = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/b.c": np.array(True),
        "file": np.empty((0, 2), np.int64),
        "h": np.ones(3, np.float16),
        "text": np.array(["one", "three"]),
    }
    arrays.save(tmp_path / "x.npz", given)
    found = arrays.load(tmp_path / "x.npz")
    assert list(found) == list(given)
    for name, array in given.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bfloat16_is_written_as_uint16_with_its_name_beside_it(tmp_path: Path) -> None:
    given = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    small = np.array([1, 2], ml_dtypes.float8_e5m2)
    arrays.save(tmp_path / "x.npz", {"x": given, "s": small})
    with np.load(tmp_path / "x.npz") as file:
        assert file["x"].dtype == np.uint16
        assert str(file["__dtypes__"]) == '{"x": "bfloat16", "s": "float8_e5m2"}'
    found = arrays.load(tmp_path / "x.npz")
    assert (found["x"].dtype, found["s"].dtype) == (given.dtype, small.dtype)
    np.testing.assert_array_equal(found["x"], given)


def test_bfloat16_as_numpy_itself_writes_it_is_read_too(tmp_path: Path) -> None:
    given = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", x=given)
    np.testing.assert_array_equal(arrays.load(tmp_path / "x.npz")["x"], given)


def test_what_is_no_npz_is_said_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2))
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    arrays.save(tmp_path / "t.npz", {"x": np.ones(1000)})
    (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:500])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("a.npy", "o.npz", "t.npz", "text.npz", "empty.npz"):
        with pytest.raises(arrays.ArrayFileError) as caught:
            arrays.load(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        arrays.load(tmp_path / "missing.npz")


def test_a_file_that_fails_to_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        arrays.save(tmp_path / "x.npz", {"x": np.zeros(1, [("f", object)])})
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "there.npz")
    arrays.save(tmp_path / "link.npz", {"x": np.arange(3)})
    assert (tmp_path / "link.npz").is_symlink()
    assert arrays.load(tmp_path / "there.npz")["x"].tolist() == [0, 1, 2]
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    arrays.save(tmp_path / "pipe", {"x": np.arange(3)})
    (tmp_path / "copy.npz").write_bytes(os.read(reader, 1 << 16))
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert arrays.load(tmp_path / "copy.npz")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int8, ml_dtypes.bfloat16])
def test_onnxruntime_shares_memory_with_arrays_both_ways(dtype: type) -> None:
    given = np.arange(6).reshape(2, 3).astype(dtype)
    value = arrays.as_ortvalue(given)
    assert value.data_ptr() == given.ctypes.data
    view = arrays.as_array(value)
    del value
    assert view.dtype == given.dtype
    np.testing.assert_array_equal(view, given)
    assert view.ctypes.data == given.ctypes.data


def test_scalars_empty_and_strided_arrays_can_be_wrapped() -> None:
    for given in (np.array(2.5), np.empty((0, 3)), np.arange(12.0).reshape(3, 4).T):
        view = arrays.as_array(arrays.as_ortvalue(given))
        assert view.shape == given.shape
        np.testing.assert_array_equal(view, given)
