"""Annotations that break a rule: onnx.checker accepts all of them, we refuse each and say why."""

from collections.abc import Callable

import onnx
import pytest
from annotated import MESH, annotate, grid, model, node_of, split, whole
from onnx import ModelProto, ShardingSpecProto

from rankwise.models.dialects.annotations import check, lower_rank
from rankwise.models.errors import ModelError
from rankwise.models.placing.placement import Placement

TEXT = """g (float[4, 8] x, float[8, 6] w, float[4, 6] b, float[4, 1] c) => (float[4, 6] y) {
  h = MatMul (x, w)
  a = Add (h, b)
  m = Mul (a, c)
  y = Softmax (m)
}"""
OTHER = {
    "layers": """g (float[4, 6] x, float[6] s) => (float[4, 6] y) {
      y = LayerNormalization (x, s) }""",
    "images": """g (float[1, 2, 8, 8] x, float[2, 2, 3, 3] w) => (float[1, 2, 6, 6] y) {
      y = Conv (x, w) }""",
    "time": """g (float[6, 1, 4] x, float[1, 8, 4] w, float[1, 8, 2] r) => (float[6, 1, 1, 2] y) {
      y = LSTM <hidden_size = 2> (x, w, r) }""",
    "outer": """g (float[6, 1] x, float[1, 4] w) => (float[6, 4] y) { y = Mul (x, w) }""",
    "branch": """g (bool x, float[4] w) => (float[4] y) {
      y = If (x) <then_branch = t () => (float[4] u) { u = Neg (w) },
                  else_branch = e () => (float[4] v) { v = Abs (w) }> }""",
    "sums": """g (float[4, 6] x) => (float[4, 6] y) <int64 k = {1}> { y = CumSum (x, k) }""",
    "sorted": """g (float[4, 6] x) => (float[4, 2] y, int64[4, 2] i) <int64[1] k = {2}> {
      y, i = TopK (x, k) }""",
    "product": """g (float[4, 8] x, float[4, 8] w) => (float[4, 4] y) {
      t = Identity (w)  y = Gemm <transB = 1> (x, t) }""",
}
Change = Callable[[ModelProto], object]


def spec(made: ModelProto, output: str = "h", tensor: str = "x") -> ShardingSpecProto:
    """A spec of x: its first dim on the devices 0 and 1, to be spoilt."""
    return annotate(made, output, {tensor: split(0, 0, 1)}).sharding_spec[0]


def simple(made: ModelProto):  # type: ignore[no-untyped-def]
    return spec(made).sharded_dim[0].simple_sharding[0]


def factors(made: ModelProto, *dims: int | str) -> None:
    dim = spec(made).sharded_dim[0]
    del dim.simple_sharding[:]
    for k, size in enumerate(dims):
        one = dim.simple_sharding.add(num_shards=2 if k == 0 else 1)
        setattr(one, "dim_value" if isinstance(size, int) else "dim_param", size)


def entry(made: ModelProto, output: str, **fields: object):  # type: ignore[no-untyped-def]
    return node_of(made, output).device_configurations.add(**fields)


def stages(made: ModelProto, **by_output: int) -> None:
    for output, stage in by_output.items():
        annotate(made, output, stage=stage)


def configured(made: ModelProto, **fields: object) -> None:
    made.configuration.add(**fields)


def at(made: ModelProto, output: str, **specs: Placement) -> None:
    annotate(made, output, specs)


def keyed(made: ModelProto, *entries: tuple[int, list[int]], device: list[int]) -> None:
    one = spec(made)
    one.device[:] = device
    for key, value in entries:
        one.index_to_device_group_map.add(key=key, value=value)


ILLEGAL: dict[str, tuple[Change, str]] = {
    # configurations
    "unknown configuration": (
        lambda m: entry(m, "h", configuration_id="other"), "a configuration of the model"),
    "no configuration": (lambda m: entry(m, "h"), "got ''"),
    "two of a name": (
        lambda m: configured(m, name=MESH, num_devices=3), "different names, got 'mesh' twice"),
    "one without a name": (lambda m: configured(m, num_devices=3), "to have a name"),
    "no devices": (lambda m: configured(m, name="z", num_devices=0), "devices, got 0"),
    "negative devices": (lambda m: configured(m, name="z", num_devices=-1), "devices, got -1"),
    "too few names": (
        lambda m: configured(m, name="z", num_devices=2, device=["a"]), "2 names of devices"),
    "too many names": (
        lambda m: configured(m, name="z", num_devices=1, device=["a", "b"]), "1 names"),
    "an old version": (lambda m: (spec(m), setattr(m, "ir_version", 10)), "need ir_version 11"),
    "twice on a node": (lambda m: (spec(m), spec(m)), "configuration 'mesh' once"),
    # which tensor
    "a foreign tensor": (lambda m: spec(m, tensor="b"), "an input or output"),
    "no tensor": (lambda m: spec(m, tensor=""), "an input or output"),
    "two specs of a tensor": (
        lambda m: annotate(m, "h").sharding_spec.extend([spec(m)] * 2), "one sharding spec"),
    # which dims
    "a dim beyond": (lambda m: setattr(spec(m).sharded_dim[0], "axis", 2), "an axis of -2 to 1"),
    "a dim before": (lambda m: setattr(spec(m).sharded_dim[0], "axis", -3), "an axis of -2 to 1"),
    "no shards": (lambda m: setattr(simple(m), "num_shards", 0), "at least 1 shard, got 0"),
    "negative shards": (lambda m: setattr(simple(m), "num_shards", -2), "at least 1 shard"),
    "a dim twice": (
        lambda m: spec(m).sharded_dim.add(axis=0).simple_sharding.add(num_shards=1), "0 twice"),
    "a dim twice, from the end": (
        lambda m: spec(m).sharded_dim.add(axis=-2).simple_sharding.add(num_shards=1), "0 twice"),
    "no sharding of a dim": (
        lambda m: spec(m).sharded_dim.add(axis=1), "a simple_sharding of axis 1"),
    "factors of another size": (lambda m: factors(m, 2, 3), "whose product is the size 4"),
    "a factor of none": (lambda m: factors(m, 0, 4), "factors of dim 0 of at least 1"),
    "a negative factor": (lambda m: factors(m, -2, -2), "factors of dim 0 of at least 1"),
    "two open factors": (lambda m: factors(m, "n", "m"), "whose product is the size 4"),
    # which devices
    "a device beyond": (lambda m: spec(m).device.__setitem__(1, 4), "devices of 0 to 3, got 4"),
    "a key without a group": (
        lambda m: spec(m).device.__setitem__(1, -1), "a device or a key of the group map, got -1"),
    "a member beyond": (
        lambda m: keyed(m, (-1, [1, 7]), device=[0, -1]), "devices of 0 to 3, got 7"),
    "a group of none": (lambda m: keyed(m, (-1, []), device=[0, -1]), "different devices"),
    "a member twice": (lambda m: keyed(m, (-1, [1, 1]), device=[0, -1]), "different devices"),
    "a key twice": (
        lambda m: keyed(m, (-1, [1]), (-1, [2]), device=[0, -1]), "each key of the group map"),
    "an unused key": (lambda m: keyed(m, (-5, [1]), device=[0, 1]), "name a block's devices"),
    "too few devices": (lambda m: spec(m).device.pop(), "a device for each of 2 blocks, got 1"),
    "too many devices": (lambda m: spec(m).device.append(2), "each of 2 blocks, got 3"),
    "more blocks than devices to deal them to": (
        lambda m: (setattr(simple(m), "num_shards", 5), node_of(m, "h").device_configurations[
            0].sharding_spec[0].device.__delitem__(slice(None))), "5 blocks, got 0"),
    "a diagonal": (
        lambda m: at(m, "h", x=grid([(0, 2), (1, 2)], 0, 1, 1, 0)), "no rectangle"),
    # stages
    "a negative stage": (lambda m: stages(m, h=-1), "stage of at least 0, got -1"),
    "more stages than devices": (
        lambda m: (setattr(m.configuration[0], "num_devices", 1), stages(m, h=0, a=1)),
        "at most 1 stages"),
    "a stage that reads a later one": (lambda m: stages(m, h=1, a=0), "of itself and of earlier"),
    # what the operator needs
    "factors cut at different devices": (
        lambda m: at(m, "h", x=split(1, 0, 1), w=split(0, 1, 0)), "cut in another way"),
    "factors cut in different numbers": (
        lambda m: at(m, "h", x=split(1, 0, 1, 2, 3), w=split(0, (0, 1), (2, 3))), "another way"),
    "a factor cut, the other whole": (
        lambda m: at(m, "h", x=split(1, 0, 1), w=whole(0, 1)), "is whole, but cut in another"),
    "rows and columns on the same devices": (
        lambda m: at(m, "h", x=split(0, 0, 1), w=split(1, 0, 1)), "do not compose"),
    "summands cut along different dims": (
        lambda m: at(m, "a", h=split(0, 0, 1), b=split(1, 0, 1)), "do not compose"),
    "summands in another order": (
        lambda m: at(m, "a", h=split(0, 0, 1), b=split(0, 1, 0)), "cut in another way"),
    "a summand that is whole": (
        lambda m: at(m, "a", h=split(0, 0, 1), b=whole(0, 1)), "is whole, but cut in another"),
    "a dim that is broadcast": (
        lambda m: at(m, "m", c=split(1, 0, 1)), "one element, which every device"),
    "devices that have nothing in common": (
        lambda m: at(m, "h", x=whole(0, 1), w=whole(2)), "of which none has all"),
    "the dim of a softmax": (
        lambda m: at(m, "y", m=split(1, 0, 1)), "Softmax needs an axis of size 6 whole"),
    "the dim of a normalisation": (
        lambda m: at(m, "y", x=split(1, 0, 1)), "LayerNormalization needs"),
    "the height of an image": (lambda m: at(m, "y", x=split(2, 0, 1)), "Conv needs"),
    "time": (lambda m: at(m, "y", x=split(0, 0, 1)), "LSTM needs"),
    "an outer product": (
        lambda m: at(m, "y", x=split(0, 0, 1), w=split(1, 0, 1)), "do not compose"),
    "inside a branch": (
        lambda m: m.graph.node[0].attribute[0].g.node[0].device_configurations.add(
            configuration_id=MESH), "no annotations in its bodies"),
    "the dim of a running sum": (lambda m: at(m, "y", x=split(1, 0, 1)), "CumSum needs"),
    "the dim that is sorted": (lambda m: at(m, "y", x=split(1, 0, 1)), "TopK needs"),
    "a transposed factor": (
        lambda m: at(m, "y", x=split(1, 0, 1), t=split(1, 1, 0)), "cut in another way"),
}  # fmt: skip

GRAPHS = {
    "the dim of a normalisation": "layers", "the height of an image": "images", "time": "time",
    "an outer product": "outer", "inside a branch": "branch",
    "the dim of a running sum": "sums", "the dim that is sorted": "sorted",
    "a transposed factor": "product",
}  # fmt: skip


def test_they_are_more_than_forty() -> None:
    assert len(ILLEGAL) >= 40
    assert check(model(TEXT, 4)) == []
    for text in OTHER.values():
        assert check(model(text, 4)) == []


@pytest.mark.parametrize("name", ILLEGAL)
def test_each_is_refused_with_the_rule(name: str) -> None:
    change, words = ILLEGAL[name]
    made = model(OTHER[GRAPHS[name]] if name in GRAPHS else TEXT, 4)
    change(made)
    onnx.checker.check_model(made, full_check=True)
    found = check(made)
    assert len(found) >= 1
    assert words in " | ".join(found), found


def test_all_that_is_wrong_is_said_at_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = model(TEXT, 4)
    spec(made).device[1] = 9
    stages(made, a=-3)
    entry(made, "y", configuration_id="other")
    assert len(check(made)) == 3
    with pytest.raises(ModelError, match=r"got 9.*got -3.*got 'other'"):
        lower_rank(made.SerializeToString(), 0, 4, tmp_path)
