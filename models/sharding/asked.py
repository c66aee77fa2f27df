"""What is asked of a choice, kept in a model's metadata for ranks that cut as they load.

So all of them choose alike, and as whoever wrote the model wished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..errors import ModelError
from .hints import Hint
from .search import Terms

KEY = "rankwise.terms"
"""Metadata of a model: hints, the memory of a rank, the batch."""


def to_metadata(terms: Terms) -> dict[str, str]:
    """Return the metadata that keeps what is asked; none where nothing is."""
    asked = {"hints": terms.hints, "memory": terms.memory, "batch_dim": terms.batch_dim}
    given = {name: value for name, value in asked.items() if value not in ((), None)}
    return {KEY: json.dumps(given)} if given else {}


def from_metadata(metadata: Mapping[str, str]) -> Terms:
    """Return what a model's metadata asks. Raises ModelError."""
    try:
        found = json.loads(metadata.get(KEY, "{}"))
        hints = tuple(Hint(str(pattern), dim) for pattern, dim in found.get("hints", ()))
        memory = found.get("memory")
        memory = tuple(memory) if isinstance(memory, list) else memory
        return Terms(memory=memory, hints=hints, batch_dim=found.get("batch_dim"))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the metadata {KEY} of the model cannot be read: {error}; shard it again"
        ) from None
