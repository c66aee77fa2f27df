"""Graphs annotated at random: refused for a rule, or equal to the plain graph."""

import graphs
import numpy as np
import onnxruntime
import pytest
from annotated import MESH
from comparison import assert_same
from onnx import DeviceConfigurationProto, ModelProto
from sessions import run

from rankwise.models.dialects.annotation_specs import write_spec
from rankwise.models.dialects.annotations import check
from rankwise.models.graph import load
from rankwise.models.placing.placement import Cut, Factor, Placement
from rankwise.models.sharding.analysis import measure

Random = np.random.Generator


def placement(
    rng: Random, shape: tuple[int, ...], other: tuple[int, ...], ranks: int
) -> Placement:
    """Up to two dims cut, some in factors, on devices and groups in any order."""
    count = min(len(shape), int(rng.integers(0, 3)))
    dims = rng.permutation(len(shape))[:count]
    cuts = [cut(rng, int(dim), shape[dim] if shape[dim] == other[dim] else None) for dim in dims]
    blocks = int(np.prod([each.shards for each in cuts]))
    if blocks > ranks or rng.random() < 0.2:
        devices = [(int(rng.integers(ranks)),) for _ in range(blocks)]
    else:
        devices = [tuple(map(int, g)) for g in np.array_split(rng.permutation(ranks), blocks)]
    return Placement(tuple(cuts), tuple(devices))


def cut(rng: Random, dim: int, size: int | None) -> Cut:
    shards = int(rng.integers(2, 4))
    outer = [n for n in range(2, size or 0) if size is not None and size % n == 0]
    if not outer or rng.random() < 0.5:
        return Cut(dim, (Factor(None, shards),))
    slow = Factor(int(rng.choice(outer)), int(rng.integers(1, 3)))
    return Cut(dim, (slow, Factor(None, shards if slow.shards == 1 else 1)))


def annotated(seed: int, plain: ModelProto, ranks: int) -> tuple[ModelProto, int]:
    """Annotate a graph, as far as it is legal; say what was not."""
    rng, refused = np.random.default_rng(seed), 0
    found = measure(load(plain))
    made = ModelProto()
    made.CopyFrom(plain)
    made.ir_version = 11
    made.configuration.append(DeviceConfigurationProto(name=MESH, num_devices=ranks))
    for node in made.graph.node:
        if rng.random() > 0.4:
            continue
        entry = node.device_configurations.add(configuration_id=MESH)
        names = [n for n in dict.fromkeys((*node.input, *node.output)) if n in found.first.shapes]
        for name in map(str, rng.permutation(names)[: 1 + (rng.random() < 0.2)]):
            both = found.first.shapes[name], found.second.shapes[name]
            entry.sharding_spec.append(write_spec(name, placement(rng, *both, ranks)))
        if rng.random() < 0.1:
            entry.pipeline_stage = int(rng.integers(ranks))
        if check(made):
            refused += 1
            del node.device_configurations[:]
    return made, refused


def compare(seed: int, name: str) -> None:
    case, ranks = graphs.CASES[name], 2 + seed % 3
    made, _ = annotated(seed, case.model, ranks)
    wanted = onnxruntime.InferenceSession(case.model.SerializeToString()).run(None, case.feeds)
    for got in run(ranks, made, case.feeds):
        assert_same(got, wanted)


@pytest.mark.parametrize("name", ["mlp", "structure"])
def test_a_few(name: str) -> None:
    compare(1 + len(name), name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.parametrize("name", graphs.CASES)
def test_many_of_each_graph(name: str, seed: int) -> None:
    compare(seed, name)
