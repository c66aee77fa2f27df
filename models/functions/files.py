"""Lowering of files and directories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..dialects.translation import translated
from ..errors import ModelError
from ..files import check_output, models_of, write_changed, write_ranks
from ..graph import mesh_of
from ..groups import members
from ..manifest import Manifest
from ..nodes import every_node
from ..opset import is_ours
from .lower import Place, lower


def lower_files(
    source: str | Path, output: str | Path, chosen: Mapping[str, str], ranks: int | None
) -> Counter[str]:
    """Lower a model or a sharded directory, and write it; return how many nodes, by operator.

    A directory stays one, with a model for each rank. A file stays a file where one function does
    for all ranks, and with `ranks` becomes a directory of as many. Raises ModelError.
    """
    source, output = Path(source), Path(output)
    models = {path: translated(model, ranks) for path, model in models_of(source).items()}
    found = _chosen_nodes(models, chosen)
    if source.is_dir():
        size = Manifest.read(source).world_size
        if ranks not in (None, size):
            raise ModelError(f"{source} is for {size} ranks, but -n is {ranks}")
        is_one_each = len(models) == size
        made = {
            path: lower(model, chosen, _place(model, rank, size) if is_one_each else None)
            for rank, (path, model) in enumerate(models.items())
        }
        check_output(source, output)
        write_changed(made, source, output)
    elif ranks is None:
        check_output(source, output)
        write_changed({source: lower(models[source], chosen, None)}, source, output)
    else:
        (model,) = models.values()
        parts = [lower(model, chosen, _place(model, rank, ranks)) for rank in range(ranks)]
        write_ranks(parts, source, output, mesh_of(model))
    return found


def _chosen_nodes(models: Mapping[Path, ModelProto], chosen: Mapping[str, str]) -> Counter[str]:
    """Count the nodes that are to be lowered. Raises ModelError where there are none."""
    model = next(iter(models.values()))
    ours = Counter(node.op_type for node in every_node(model) if is_ours(node))
    if missing := [op_type for op_type in chosen if op_type not in ours]:
        held = ", ".join(ours) or "no communication"
        raise ModelError(f"expected {missing[0]} nodes to lower, but the model has {held}")
    return Counter({op_type: ours[op_type] for op_type in chosen})


def _place(model: ModelProto, rank: int, size: int) -> Place:
    mesh = mesh_of(model)

    def place(attributes: Mapping[str, Any]) -> tuple[int, int]:
        ranks = members(attributes, mesh, rank, size)
        return ranks.index(rank), len(ranks)

    return place
