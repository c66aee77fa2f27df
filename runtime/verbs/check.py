"""The verb check: whether the programs of all ranks fit, before they run."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...models.errors import ModelError
from ...models.manifest import Manifest
from ...models.mesh import Mesh
from .verb import Verb


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="DIR|MODEL",
        help="what shard has made, the models of all ranks in their order, or one for all",
    )
    parser.add_argument(
        "-n", dest="ranks", type=int, metavar="RANKS", help="of one model for all of them"
    )
    parser.add_argument(
        "--rendezvous", action="store_true", help="find what would hang if a Send waited"
    )


def check(options: argparse.Namespace) -> int:
    """Print what is wrong, a line for each finding; 1 if anything is."""
    from ...models.check import check as check_plans
    from ...models.check import slim
    from ...models.plan import Plan, build_plan
    from ..loading import load_rank

    ranks = _ranks(options.models, options.ranks)
    if broken := [text for path in dict.fromkeys(options.models) for text in _annotations(path)]:
        print("\n".join(broken))
        return 1
    plans, known = list[Plan](), dict[bytes, Plan]()
    meshes = list[Mesh | None]()
    with tempfile.TemporaryDirectory(prefix="rankwise-") as scratch:
        for rank, path in enumerate(_paths(options.models, ranks)):
            loaded = load_rank(path, None, rank, ranks, Path(scratch))
            text = loaded.model.SerializeToString(deterministic=True)
            digest = hashlib.sha256(text).digest()
            if digest not in known:
                known[digest] = slim(build_plan(loaded.model), loaded.folder)
            plans.append(known[digest])
            meshes.append(loaded.mesh)
    verdict = check_plans(plans, meshes, rendezvous=options.rendezvous)
    print(verdict)
    return 1 if verdict.findings else 0


def _ranks(models: Sequence[str], asked: int | None) -> int:
    """Return the number of ranks that there are or that are asked for. Raises ModelError."""
    known: int | None = len(models)
    if len(models) == 1:
        known = _ranks_of(Path(models[0]))
    ranks = known if known is not None else asked
    if ranks is None:
        raise ModelError(f"expected -n with the number of ranks, which {models[0]} does not say")
    if ranks < 1:
        raise ModelError(f"expected -n of at least 1, got {ranks}")
    if asked is not None and asked != ranks:
        what = f"{models[0]} is made for" if len(models) == 1 else "there are models of"
        raise ModelError(f"{what} {ranks} ranks, but -n is {asked}; leave it out")
    return ranks


def _ranks_of(path: Path) -> int | None:
    """Return the number of ranks that a directory or a model is made for, if it says so."""
    from ...models.graph import mesh_of, read

    if path.is_dir():
        manifest = Manifest.read(path)
        return manifest.world_size if manifest.representation != "spmd" else None
    model, _ = read(path)
    if len(model.configuration) == 1:
        devices: int = model.configuration[0].num_devices
        return devices
    mesh = mesh_of(model)
    return None if mesh is None else mesh.size


def _annotations(path: str) -> list[str]:
    """Return the rules that device configurations break, of a model that has any."""
    from ...models.dialects import annotations
    from ...models.graph import read

    if Path(path).is_dir():
        return []
    model, _ = read(path)
    return annotations.check(path) if annotations.is_annotated(model) else []


def _paths(models: Sequence[str], ranks: int) -> list[str]:
    return list(models) * (ranks if len(models) == 1 else 1)


VERB = Verb(
    "whether the programs of all ranks fit: peers, shapes, orders, deadlocks",
    "rankwise check model.tp4",
    add,
    check,
)
