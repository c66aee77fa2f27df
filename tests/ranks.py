"""Runs sharded graphs on the ranks of one process, each in a session of onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.mesh import Mesh
from rankwise.models.sharding.analysis import Analysis
from rankwise.models.sharding.axes import Axis
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.layout import Layout, is_opaque
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, write_part


def cut_along(analysis: Analysis, atom: Axis, size: int) -> Sharding:
    """Return the sharding along one atom alone."""
    return Sharding(analysis, Mesh(tp=size), Choice((), layout(atom, size), 0.0, ()))


def layout(atom: Axis, size: int) -> Layout:
    return Layout(frozenset([atom]), size)


def passing(analysis: Analysis, size: int, op_type: str = "") -> list[Axis]:
    """Return the atoms along which a node of an operator, or any, runs on parts."""
    return [
        atom
        for atom, _, sites in shardable(analysis, size)
        if any(
            op_type in ("", site.node.op_type) and not is_opaque(site, layout(atom, size))
            for site in sites
        )
    ]


def run(sharding: Sharding, feeds: Mapping[str, Any], folder: Path) -> list[list[Any]]:
    """Return the outputs of every rank."""
    for part in sharding.parts:
        write_part(sharding, part, folder / f"{part.rank}.onnx", lambda done, total: None)
    # A part that does not communicate would be sharded once more: one rank has the whole graph.
    size = sharding.mesh.size if sharding.parts[0].collectives else 1
    return local.run(size, partial(_answer, folder, feeds))


def _answer(folder: Path, feeds: Mapping[str, Any], comm: Communicator) -> list[Any]:
    with InferenceSession(folder / f"{comm.rank}.onnx", comm=comm) as session:
        return session.run(None, feeds)


def whole(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """Return what one onnxruntime session gives."""
    return list(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds))


def assert_same(got: list[Any], wanted: list[Any]) -> None:
    """Compare outputs: floats up to rounding, all else exactly."""
    for a, b in zip(got, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)
