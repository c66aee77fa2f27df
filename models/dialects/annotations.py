"""Device configurations of ONNX IR 11: plain graphs whose nodes say which device holds what.

They change no result. A graph is run on as many ranks as a configuration has devices, each node
where its sharding specs say, or its pipeline stage. Where no spec says, an input lies as the node
that made it left it, what is fed lies whole on every device, and an output lies as it comes.
Stage s is on device s; where the numbers are not those of devices, stages have one each in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import DeviceConfigurationProto, ModelProto, NodeDeviceConfigurationProto, NodeProto

from ..errors import MeshError, ModelError, PlacementError
from ..graph import Graph, load, read
from ..nodes import label, subgraphs
from ..placing.lower import Intent, lower
from ..placing.placement import Placement
from ..sharding.analysis import Measured, measure
from ..sharding.part import Part
from ..sharding.part_file import write_parts
from .annotation_specs import read_spec

IR_VERSION = 11
"""The first that has device configurations."""


def is_annotated(model: ModelProto) -> bool:
    """Say whether any node of a graph has a device configuration."""
    return any(node.device_configurations for node in model.graph.node)


def find_configuration(model: ModelProto, size: int) -> DeviceConfigurationProto:
    """Return the configuration of `size` devices. Raises MeshError, ModelError."""
    found: DeviceConfigurationProto | None = next(
        (each for each in model.configuration if each.num_devices == size), None
    )
    if found is None:
        known = ", ".join(f"{e.name!r} of {e.num_devices}" for e in model.configuration)
        raise MeshError(
            f"expected as many ranks as a configuration of the model has devices, got {size}; "
            f"it has {known or 'none'}; start as many, or name a mesh to shard it all the same"
        )
    return found


def lower_rank(source: str | Path | bytes, rank: int, size: int, directory: Path) -> Path:
    """Write the graph of one rank of an annotated model; return its path.

    Raises MeshError for a number of ranks that no configuration has, and ModelError with all
    rules that the annotations break.
    """
    model, _ = read(source)
    graph = load(source)
    path = directory / f"rank{rank}.onnx"
    part = lowered(model, graph, size, rank)
    write_parts(graph, {path: part}, {"rankwise.mesh": f"tp={size}"})
    return path


def lowered(model: ModelProto, graph: Graph, size: int, rank: int) -> Part:
    """Return one rank's part of the graph of an annotated model. Raises MeshError, ModelError."""
    configuration = find_configuration(model, size)
    measured = measure(graph)
    if found := violations(model, measured):
        raise ModelError("; ".join(found))
    try:
        intents = _intents(model, configuration, measured)
        return lower(graph, measured, intents, size, rank)
    except PlacementError as error:
        raise ModelError(str(error)) from None


def check(source: str | Path | bytes | ModelProto) -> list[str]:
    """Return the rules that the annotations of a model break.

    A model whose weights lie beside it is given by its path. What a node's placements break of
    its operator's rule is found where nothing else is wrong, the first of each configuration.
    """
    model = source if isinstance(source, ModelProto) else read(source)[0]
    graph = load(source)
    found = violations(model, measure(graph))
    if found:
        return found
    for configuration in model.configuration:
        try:
            lowered(model, graph, configuration.num_devices, 0)
        except ModelError as error:
            found.append(str(error))
    return found


def violations(model: ModelProto, measured: Measured) -> list[str]:
    """Return what is wrong with configurations and annotations, each by itself."""
    found = list(_of_configurations(model))
    known = {each.name: each for each in model.configuration}
    for node in model.graph.node:
        names = [each.configuration_id for each in node.device_configurations]
        for name in sorted({name for name in names if names.count(name) > 1}):
            found.append(f"{label(node)}: expected configuration {name!r} once, got it twice")
        for each in node.device_configurations:
            where = f"{label(node)}: "
            if each.configuration_id in known:
                devices = known[each.configuration_id].num_devices
                found += [where + text for text in _of_node(node, each, devices, measured)]
            else:
                found.append(
                    f"{where}expected a configuration of the model, {sorted(known)}, "
                    f"got {each.configuration_id!r}"
                )
        if any(inner.device_configurations for body in subgraphs(node) for inner in body.node):
            found.append(
                f"{label(node)}: expected no annotations in its bodies, which every device runs"
            )
    return found + list(_of_stages(model))


def _of_configurations(model: ModelProto) -> Iterator[str]:
    if is_annotated(model) and model.ir_version < IR_VERSION:
        yield f"device configurations need ir_version {IR_VERSION}, got {model.ir_version}"
    names = [each.name for each in model.configuration]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"expected configurations of different names, got {name!r} twice"
    for each in model.configuration:
        if not each.name:
            yield "expected a configuration to have a name"
        if each.num_devices < 1:
            yield f"configuration {each.name!r}: expected devices, got {each.num_devices}"
        if each.device and len(each.device) != each.num_devices:
            yield (
                f"configuration {each.name!r}: expected {each.num_devices} names of devices or "
                f"none, got {len(each.device)}"
            )


def _of_node(
    node: NodeProto, annotation: NodeDeviceConfigurationProto, devices: int, measured: Measured
) -> Iterator[str]:
    if annotation.pipeline_stage < 0:
        yield f"expected a pipeline stage of at least 0, got {annotation.pipeline_stage}"
    names = [spec.tensor_name for spec in annotation.sharding_spec]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"expected one sharding spec for {name!r}, got several"
    for spec in annotation.sharding_spec:
        if not spec.tensor_name or spec.tensor_name not in (*node.input, *node.output):
            yield (
                f"expected a sharding spec for an input or output, {[*node.input, *node.output]}, "
                f"got {spec.tensor_name!r}"
            )
            continue
        shape = measured.first.shapes.get(spec.tensor_name)
        try:
            placement = read_spec(spec, None if shape is None else len(shape), devices)
            _check_placement(placement, shape, measured, spec.tensor_name, devices)
        except PlacementError as error:
            yield f"{spec.tensor_name}: {error}"


def _check_placement(
    placement: Placement,
    shape: tuple[int, ...] | None,
    measured: Measured,
    name: str,
    devices: int,
) -> None:
    """Raise PlacementError for devices out of range, and for factors that do not make a dim."""
    if outside := [member for member in placement.members if not 0 <= member < devices]:
        raise PlacementError(f"expected devices of 0 to {devices - 1}, got {outside[0]}")
    if shape is None:
        if placement.dims:
            raise PlacementError("expected the number of its dims to be known, since it is cut")
        return
    other = measured.second.shapes.get(name, shape)
    for dim, each in placement.dims.items():
        if shape[dim] == other[dim] and shape[dim] > 0:
            each.sizes(shape[dim])
    pairs = enumerate(zip(shape, other, strict=True))
    placement.held([a if a == b else placement.extent(dim) or 1 for dim, (a, b) in pairs])


def _of_stages(model: ModelProto) -> Iterator[str]:
    """Yield the nodes that read what a later stage makes, and stages that have no device."""
    for configuration in model.configuration:
        stages = dict[str, int]()
        for node in model.graph.node:
            for each in node.device_configurations:
                if each.configuration_id == configuration.name and each.HasField("pipeline_stage"):
                    stages |= dict.fromkeys(filter(None, node.output), each.pipeline_stage)
        if len(set(stages.values())) > configuration.num_devices > 0:
            yield (
                f"configuration {configuration.name!r}: expected at most "
                f"{configuration.num_devices} stages, since each has a device, "
                f"got {len(set(stages.values()))}"
            )
        for node in model.graph.node:
            own = next((stages[name] for name in node.output if name in stages), None)
            late = [name for name in node.input if own is not None and stages.get(name, own) > own]
            if late:
                yield (
                    f"{label(node)}: stage {own} reads {late[0]!r}, which stage "
                    f"{stages[late[0]]} makes; a stage reads of itself and of earlier ones"
                )


def _intents(
    model: ModelProto, configuration: DeviceConfigurationProto, measured: Measured
) -> dict[str, Intent]:
    """Return what a configuration says of each node, by the node's first output."""
    said = [
        (node, each)
        for node in model.graph.node
        for each in node.device_configurations
        if each.configuration_id == configuration.name
    ]
    stages = sorted({each.pipeline_stage for _, each in said if each.HasField("pipeline_stage")})
    are_devices = not stages or stages[-1] < configuration.num_devices
    made = dict[str, Intent]()
    for node, each in said:
        placements = {
            spec.tensor_name: read_spec(
                spec, _rank(measured, spec.tensor_name), configuration.num_devices
            )
            for spec in each.sharding_spec
        }
        devices = None
        if each.HasField("pipeline_stage"):
            stage = each.pipeline_stage
            devices = (stage if are_devices else stages.index(stage),)
        made[next(filter(None, node.output))] = Intent(
            {k: placements[name] for k, name in enumerate(node.input) if name in placements},
            {k: placements[name] for k, name in enumerate(node.output) if name in placements},
            devices,
        )
    return made


def _rank(measured: Measured, name: str) -> int | None:
    shape = measured.first.shapes.get(name)
    return None if shape is None else len(shape)
