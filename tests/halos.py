"""Images cut along a dim of their places: at all their resolutions at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ranks
from case import build, generator
from comparison import assert_same

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import Analysis, analyse
from rankwise.models.sharding.axes import Axis, find
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.levels import mates
from rankwise.models.sharding.write import Sharding

HEIGHT = 2
"""The dim that is cut."""


def places(analysis: Analysis, size: int, dim: int = HEIGHT) -> list[Axis]:
    """Return the atoms of a dim of images that can be cut."""
    found = {
        find(axis)
        for site in analysis.sites
        for window in site.windows
        for axis in (window.given, window.made)
        if window.dim == dim
    }
    possible = {atom for atom, _, _ in shardable(analysis, size)}
    return [atom for atom in mates(analysis) if atom in found & possible]


def cut(model: onnx.ModelProto, size: int, dim: int = HEIGHT) -> Sharding:
    """Return the sharding along a dim of the places of images."""
    analysis = analyse(load(model))
    return ranks.cut_along(analysis, places(analysis, size, dim), size)


def compare(model: onnx.ModelProto, size: int, folder: Path, dim: int = HEIGHT) -> Sharding:
    """Compare the ranks' outputs with onnxruntime's of the whole graph; return the sharding."""
    sharding = cut(model, size, dim)
    feeds = fed(model)
    expected = ranks.whole(model, feeds)
    for outputs in ranks.run(sharding, feeds, folder):
        assert_same(outputs, expected)
    return sharding


def fed(model: onnx.ModelProto, batch: int = 2) -> dict[str, Any]:
    """Return random inputs; open dims are as long as a batch."""
    rng = generator(str(model.graph.input))
    found = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or batch for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        array = rng.standard_normal(shape) * (1 if dtype.kind == "f" else 40)
        found[value.name] = (np.abs(array) if dtype.kind == "u" else array).astype(dtype)
    return found


def image(body: str, height: int = 12, channels: int = 4, **weights: Any) -> onnx.ModelProto:
    """Build a graph from an image x, made of what is fed, to y; all sizes but the batch are known.

    What is fed is whole on all ranks, and needs no messages.
    """
    return build(
        f"""(float[b,{channels},{height},7] fed) => (float[b,m,n,o] y) {{
              x = Identity(fed)  {body} }}""",
        **weights,
    )
