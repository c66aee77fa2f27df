"""Comparison with the unsharded model in one onnxruntime process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto

from ..models.errors import ModelError
from ..models.graph import digest, read
from ..models.manifest import Manifest
from ..models.plan import Compute, communicates
from .arrays import Array
from .fragment import Fragment, first_line, open_session
from .session import DEFAULT_PROVIDERS


@dataclass(frozen=True)
class Comparison:
    """How far results are from those of the unsharded model."""

    equal: bool
    """np.allclose, with NaN equal to NaN, for every output"""
    outputs: Mapping[str, float | None]
    """largest absolute difference of each; None where type or shape differ"""

    @property
    def max_abs_diff(self) -> float | None:
        """The largest of all; None where type or shape of an output differ."""
        found = [diff for diff in self.outputs.values() if diff is not None]
        return max(found, default=0.0) if len(found) == len(self.outputs) else None

    def as_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "max_abs_diff": self.max_abs_diff,
            "outputs": dict(self.outputs),
        }


def find_source(model: str, given: str | None) -> str:
    """Return the path of the unsharded model. Raises ModelError with what to do."""
    if given is None and not Path(model).is_dir():
        given = model
    if given is not None:
        proto: ModelProto = read(given)[0]
        if communicates(proto):
            raise ModelError(
                f"{given} communicates, so no single process can run it; "
                "name the model that it comes from with --source, or leave --compare out"
            )
        return given
    manifest = Manifest.read(model)
    path = Path(str(manifest.source.get("path", "")))
    if not path.is_file():
        raise ModelError(
            f"--compare needs the model that {model} was made from, but {path} does not exist; "
            "name it with --source"
        )
    if digest(path) != manifest.source.get("sha256"):
        raise ModelError(
            f"{path} has changed since {model} was made from it; "
            "shard it again, or name the old one with --source"
        )
    return str(path)


def run_whole(source: str, names: list[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run the unsharded model on all cores of this process; return its outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = open_session(source, options, DEFAULT_PROVIDERS)
    whole = Fragment.of(session, Compute((), tuple(feeds), tuple(names)))
    try:
        return dict(zip(names, whole.run(feeds, None), strict=True))
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ModelError(f"onnxruntime cannot run {source}: {first_line(error)}") from error


def compare(
    results: Mapping[str, Array], expected: Mapping[str, Array], rtol: float, atol: float
) -> Comparison:
    """Compare outputs by name."""
    diffs: dict[str, float | None] = {}
    equal = True
    for name, right in expected.items():
        left = results[name]
        if not isinstance(right, np.ndarray):
            raise ValueError(f"output {name!r} is no tensor, and cannot be compared")
        if left.shape != right.shape or left.dtype != right.dtype:
            diffs[name], equal = None, False
        elif left.dtype.kind in "OUS":
            diffs[name] = float((left != right).any())
            equal &= not diffs[name]
        else:
            diffs[name], close = _numbers(left, right, rtol, atol)
            equal &= close
    return Comparison(equal, diffs)


def _numbers(left: Array, right: Array, rtol: float, atol: float) -> tuple[float, bool]:
    if left.dtype.kind != "c":
        left, right = left.astype(np.float64), right.astype(np.float64)
    close = np.allclose(left, right, rtol, atol, equal_nan=True)
    # Equal infinities and NaN in the same place have no difference.
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        diff = np.where(same, 0.0, np.abs(left - right))
    # A NaN on one side only is as far as can be.
    return float(np.nan_to_num(diff, nan=np.inf).max(initial=0.0)), close
