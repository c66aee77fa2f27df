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
"""Metadata of a model: hints and the memory of a rank."""


def to_metadata(terms: Terms) -> dict[str, str]:
    """Return the metadata that keeps hints and memory; none where nothing is asked."""
    if not terms.hints and terms.memory is None:
        return {}
    return {KEY: json.dumps({"hints": terms.hints, "memory": terms.memory})}


def from_metadata(metadata: Mapping[str, str]) -> Terms:
    """Return what a model's metadata asks. Raises ModelError."""
    try:
        found = json.loads(metadata.get(KEY, "{}"))
        hints = tuple(Hint(str(pattern), dim) for pattern, dim in found.get("hints", ()))
        return Terms(memory=found.get("memory"), hints=hints)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the metadata {KEY} of the model cannot be read: {error}; shard it again"
        ) from None
