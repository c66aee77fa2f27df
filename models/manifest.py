"""manifest.json: what a sharded directory holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ModelError
from .mesh import Mesh

NAME = "manifest.json"
FORMAT = 1
REPRESENTATIONS = ("per-rank", "spmd", "annotated")


@dataclass(frozen=True)
class RankEntry:
    """What one rank runs."""

    model: str
    """file name within the directory"""
    weight_bytes: int
    """initializer bytes that this rank holds when it runs"""
    stage: int = 0
    first: str = ""
    """the first node of its stage, "" for a replica that is idle"""
    last: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json."""

    source: Mapping[str, Any]
    """sha256, ir_version, opset, path of the model that was sharded"""
    mesh: Mapping[str, int]
    representation: str
    world_size: int
    ranks: tuple[RankEntry, ...]
    collectives: Mapping[str, int]
    """collectives of a run, by operator"""
    predicted: Mapping[str, Any] = field(default_factory=dict)
    """of a run of the usual size: bytes that a rank sends at the most, seconds, those of each
    stage"""
    batch: Mapping[str, int] = field(default_factory=dict)
    """dims of inputs that replicas split"""
    notes: tuple[str, ...] = ()
    """what a person ought to know, such as that replicas are idle"""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ModelError(f"expected a manifest of format {FORMAT}, got {self.format!r}")
        if self.representation not in REPRESENTATIONS:
            raise ModelError(
                f"expected a representation of {', '.join(REPRESENTATIONS)}, "
                f"got {self.representation!r}"
            )
        if len(self.ranks) != self.world_size or Mesh.parse(self.mesh).size != self.world_size:
            raise ModelError(
                f"the manifest has {len(self.ranks)} ranks, world_size {self.world_size} and mesh "
                f"{dict(self.mesh)}: they disagree; shard the model again"
            )

    @classmethod
    def read(cls, directory: str | Path) -> Manifest:
        """Read the manifest of a directory. Raises ModelError."""
        path = Path(directory) / NAME
        if not path.is_file():
            raise ModelError(
                f"expected a sharded directory, but {directory} has no {NAME}; "
                "make one with rankwise shard MODEL -o DIR --mesh tp=N"
            )
        try:
            fields = json.loads(path.read_text())
            ranks = tuple(RankEntry(**entry) for entry in fields.pop("ranks"))
            notes = tuple(fields.pop("notes", ()))
            return cls(ranks=ranks, notes=notes, **fields)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ModelError(f"{path} cannot be read: {error}; shard the model again") from None

    def write(self, directory: Path) -> None:
        """Write the manifest: the last file of a directory, which makes it complete."""
        fields = {"format": self.format, **asdict(self)}
        partial = directory / f"{NAME}.partial"
        partial.write_text(json.dumps(fields, indent=2) + "\n")
        partial.replace(directory / NAME)
