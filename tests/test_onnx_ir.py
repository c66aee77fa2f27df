"""Annotations that onnx-ir's own interface has written are executed."""

import onnx
import pytest
from annotated import check, model
from case import normal

onnx_ir = pytest.importorskip("onnx_ir")

TEXT = """g (float[n, 8] x, float[8, 12] w, float[12, 6] v) => (float[n, 6] y) {
  h = MatMul (x, w)
  r = Relu (h)
  y = MatMul (r, v)
}"""
FEEDS = {"x": normal(5, 8), "w": normal(8, 12), "v": normal(12, 6)}


def read():  # type: ignore[no-untyped-def]
    plain = model(TEXT, 2)
    del plain.configuration[:]
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(plain))


def test_shards_along_one_axis_each() -> None:
    for devices in ((0, 1), (1, 0), ()):
        made = read()
        mesh = made.add_device_configuration("mesh", num_devices=2)
        first, _, last = made.graph
        options = {"configuration": mesh, "num_shards": 2, "device_indices": devices}
        first.shard(first.inputs[1], axis=-1, **options)
        last.shard(last.inputs[1], axis=0, **options)
        last.shard(last.outputs[0], axis=1, **options)
        check(onnx_ir.to_proto(made), 2, FEEDS)


def test_two_axes_of_a_mesh_of_four() -> None:
    made = read()
    mesh = made.add_device_configuration("mesh", device_names=("a", "b", "c", "d"))
    first, relu, _ = made.graph
    for axis in (0, 1):
        relu.shard(
            relu.outputs[0], configuration=mesh, axis=axis, num_shards=2,
            device_indices=(2 * axis, 2 * axis + 1),
        )  # fmt: skip
    first.shard(
        first.inputs[0], configuration=mesh, axis=0, num_shards=1, device_indices=(0, 1, 2, 3)
    )
    check(onnx_ir.to_proto(made), 4, FEEDS)


def test_stages_and_shards_within_them() -> None:
    made = read()
    mesh = made.add_device_configuration("mesh", num_devices=3)
    first, relu, last = made.graph
    first.set_pipeline_stage(mesh, 0)
    relu.set_pipeline_stage(mesh, 1)
    last.shard(
        last.inputs[1], configuration=mesh, axis=1, num_shards=2, device_indices=(1, 2),
        pipeline_stage=1,
    )  # fmt: skip
    check(onnx_ir.to_proto(made), 3, FEEDS)
