"""The examples of ONNX's proposals 0006 and 0007 place each block on the devices they say."""

import numpy as np
import pytest
from annotated import MESH, check, model
from case import normal
from google.protobuf import text_format
from onnx import ModelProto, ShardingSpecProto
from sessions import run

from rankwise.models.dialects.annotation_specs import read_spec, write_spec
from rankwise.models.graph import load
from rankwise.models.placing.choosing import Wish, choose
from rankwise.models.placing.node import natural
from rankwise.models.placing.placement import Placement
from rankwise.models.sharding.analysis import measure, tie

TENSOR = np.array([[1, 2], [3, 4]], np.float32)
HALVES = "sharded_dim { axis: %d simple_sharding { num_shards: 2 } }"
GROUPS = """device: -1 device: -2
index_to_device_group_map { key: -1 value: %d value: %d }
index_to_device_group_map { key: -2 value: %d value: %d }"""

SPLIT = [
    (f"device: 0 device: 1 {HALVES % 0}", {0: [[1, 2]], 1: [[3, 4]]}),
    (f"device: 0 device: 1 {HALVES % 1}", {0: [[1], [3]], 1: [[2], [4]]}),
    (
        f"device: 0 device: 1 device: 2 device: 3 {HALVES % 0} {HALVES % 1}",
        {0: [[1]], 1: [[2]], 2: [[3]], 3: [[4]]},
    ),
    (
        "device: -1 index_to_device_group_map { key: -1 value: 0 value: 1 }",
        {0: [[1, 2], [3, 4]], 1: [[1, 2], [3, 4]]},
    ),
    # 0006 prints [[2, 3]] for the devices 2 and 3, where its own loop gives [[3, 4]].
    (
        f"{GROUPS % (0, 1, 2, 3)} {HALVES % 0}",
        {0: [[1, 2]], 1: [[1, 2]], 2: [[3, 4]], 3: [[3, 4]]},
    ),
]  # fmt: skip


def parse(text: str) -> ShardingSpecProto:
    return text_format.Parse(text, ShardingSpecProto(tensor_name="x"))


def held(placement: Placement, tensor: np.ndarray) -> dict[int, list[list[float]]]:
    boxes = placement.held(tensor.shape)
    return {device: tensor[np.ix_(*box)].tolist() for device, box in boxes.items()}


@pytest.mark.parametrize(("text", "wanted"), SPLIT)
def test_splits_and_broadcasts(text: str, wanted: dict[int, list[list[int]]]) -> None:
    placement = read_spec(parse(text), 2, 4)
    assert held(placement, TENSOR) == wanted
    assert write_spec("x", placement) == parse(text)


def annotated(text: str, specs: dict[str, str]) -> ModelProto:
    made = model(text, 4)
    entry = made.graph.node[0].device_configurations.add(configuration_id=MESH)
    for name, spec in specs.items():
        entry.sharding_spec.add().CopyFrom(parse(spec))
        entry.sharding_spec[-1].tensor_name = name
    return made


def left(made: ModelProto, specs: dict[str, str]) -> Placement:
    """Where a graph's only node leaves its output, of which nothing is said."""
    graph = load(made)
    (site,) = tie(graph, measure(graph)).sites
    wishes = [
        Wish(tensor, read_spec(parse(specs[tensor.name]), 2, 4), is_firm=True)
        for tensor in site.inputs
        if tensor is not None and tensor.name in specs
    ]
    shared = set.intersection(*(set(wish.placement.members) for wish in wishes))
    return natural(choose(site, wishes, sorted(shared)), site.output())


@pytest.mark.parametrize(("op", "inner"), [("Add", 1), ("MatMul", 3)])
def test_two_broadcast_axes_compose_and_a_product_is_a_broadcast_and_a_sum(
    op: str, inner: int
) -> None:
    specs = {
        "x": f"{GROUPS % (0, 1, 2, 3)} {HALVES % 0}",
        "w": f"{GROUPS % (0, 2, 1, 3)} {HALVES % 1}",
    }
    ends = f"(float[2, {inner}] x, float[{inner}, 2] w) => (float[2, 2] y)"
    made = annotated(f"g {ends} {{ y = {op} (x, w) }}", specs)
    assert held(left(made, specs), TENSOR) == SPLIT[2][1]
    check(made, 4, {"x": normal(2, inner), "w": normal(inner, 2)})


def test_a_sum_over_a_cut_dim_lies_on_all_devices_that_took_part() -> None:
    specs = {"x": f"device: 0 device: 2 {HALVES % 1}"}
    made = model(
        """g (float[3, 4] x) => (float[3] y) <int64[1] a = {1}> {
          y = ReduceSum <keepdims = 0> (x, a) }""",
        4,
    )
    assert left(made, specs) == Placement.everywhere([0, 2])


def test_rows_and_columns_on_the_same_two_devices_make_no_sense() -> None:
    text = "g (float[32, 1024] x, float[32, 1024] w) => (float[32, 1024] y) { y = Add (x, w) }"
    specs = {k: f"device: 0 device: 1 {HALVES % dim}" for dim, k in enumerate("xw")}
    made = annotated(text, specs)
    with pytest.raises(ValueError, match="do not compose"):
        run(4, made, {"x": normal(32, 1024), "w": normal(32, 1024)})


def test_stages_of_the_diagram_are_numbered_from_one() -> None:
    names = "ABCDEFGHIJK"
    chain = [f"{b} = Abs ({a})" for a, b in zip("x" + names, names, strict=False)]
    made = model(f"g (float[4] x) => (float[4] K) {{ {' '.join(chain)} }}", 2)
    for node in made.graph.node:
        stage = 1 if node.output[0] < "F" else 2
        node.device_configurations.add(configuration_id=MESH, pipeline_stage=stage)
    check(made, 2, {"x": normal(4)})
