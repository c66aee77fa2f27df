"""Builds annotated models, and compares them with what one onnxruntime process has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
from comparison import assert_same
from onnx import (
    DeviceConfigurationProto,
    ModelProto,
    NodeDeviceConfigurationProto,
    NodeProto,
    parser,
)
from sessions import run

from rankwise.models.dialects.annotation_specs import write_spec
from rankwise.models.placing.placement import Placement, cut

MESH = "mesh"


def whole(*devices: int) -> Placement:
    """The tensor on each of these devices."""
    return Placement.everywhere(devices)


def split(dim: int, *groups: int | tuple[int, ...]) -> Placement:
    """A dim cut into as many parts as there are groups of devices."""
    return Placement(
        (cut(dim, len(groups)),), tuple(g if isinstance(g, tuple) else (g,) for g in groups)
    )


def grid(dims: Sequence[tuple[int, int]], *devices: int) -> Placement:
    """Several dims cut, each in so many parts."""
    return Placement(tuple(cut(d, n) for d, n in dims), tuple((each,) for each in devices))


def model(text: str, devices: int, opset: int = 18) -> ModelProto:
    """A graph in ONNX's text form, with one configuration."""
    made = parser.parse_model(f'<ir_version: 11, opset_import: ["" : {opset}]> {text}')
    made.configuration.append(DeviceConfigurationProto(name=MESH, num_devices=devices))
    return made


def node_of(made: ModelProto, output: str) -> NodeProto:
    return next(node for node in made.graph.node if output in node.output)


def annotate(
    made: ModelProto,
    output: str,
    specs: Mapping[str, Placement] | None = None,
    stage: int | None = None,
) -> NodeDeviceConfigurationProto:
    """Annotate the node that makes `output`."""
    entry = node_of(made, output).device_configurations.add(configuration_id=MESH)
    entry.sharding_spec.extend(write_spec(name, p) for name, p in (specs or {}).items())
    if stage is not None:
        entry.pipeline_stage = stage
    return entry


def check(made: ModelProto, ranks: int, feeds: Mapping[str, Any]) -> None:
    """Every rank has what one onnxruntime process has, which ignores annotations."""
    plain = onnxruntime.InferenceSession(made.SerializeToString())
    wanted = plain.run(None, feeds)
    for got in run(ranks, made, feeds):
        assert_same(got, wanted)
