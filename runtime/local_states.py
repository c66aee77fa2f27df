"""What run_local takes and gives in the place of states: this rank's part of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TypeProto, ValueInfoProto

from ..models.states import batch_of, states_of
from .arrays import Array, dtype_of
from .signature import Value, check_feeds, fits, signature


class LocalStates:
    """The states of a model, as one rank has them."""

    def __init__(
        self,
        model: ModelProto,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        types: Mapping[str, TypeProto],
    ) -> None:
        self._states, self._batch = states_of(model), batch_of(model)
        self._whole, self._outputs = self._unless_absent(inputs), outputs
        kept = {s.input: types[s.local_input] for s in self._states if s.local_input}
        self._local = self._unless_absent(
            signature([ValueInfoProto(name=value.name)], kept)[0] if value.name in kept else value
            for value in inputs
        )

    def __bool__(self) -> bool:
        return bool(self._states)

    def _unless_absent(self, inputs: Iterable[Value]) -> list[Value]:
        """Let states of which this rank has no part be of any shape."""
        absent = {state.input for state in self._states if not state.local_input}
        return [value._replace(shape=[]) if value.name in absent else value for value in inputs]

    def outputs(self, names: Sequence[str]) -> list[str]:
        """Return what this rank's graph calls outputs; "" for a state that it has no part of."""
        made = {state.output: state.local_output for state in self._states}
        return [made.get(name, name) for name in names]

    def nothing(self, name: str) -> Array:
        """Return what stands for a state of which this rank has no part: an empty array."""
        value = next(value for value in self._outputs if value.name == name)
        return np.empty((0,) * max(1, len(value.shape)), dtype_of(value.type))

    def feeds(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is fed under the names of this rank's graph. Raises ValueError."""
        if self._are_whole(given):
            return check_feeds(given, self._whole)
        fed = {state.input: state.local_input for state in self._states}
        feeds = {fed.get(k, k): array for k, array in check_feeds(given, self._local).items()}
        feeds.pop("", None)
        return feeds

    def _are_whole(self, feeds: Mapping[str, Any]) -> bool:
        """Say whether states are fed as `run` takes them.

        A rank's part of one that tp cuts is smaller in a dim that is known; a replica's rows are
        not as many as those of another input.
        """
        cut = {s.input for s in self._states if s.local_input not in ("", s.input)}
        whole = [value for value in self._whole if value.name in cut]
        return bool(whole) and all(
            value.name in feeds
            and fits(feeds[value.name], value)
            and self._has_all_rows(value.name, feeds)
            for value in whole
        )

    def _has_all_rows(self, name: str, feeds: Mapping[str, Any]) -> bool:
        rows, dim = self.rows(feeds), self._batch.get(name)
        return dim is None or rows is None or np.shape(feeds[name])[dim] == rows

    def rows(self, feeds: Mapping[str, Any]) -> int | None:
        """Return how long the batch is, by inputs that are no states; None where none says it."""
        states = {state.input for state in self._states}
        fed = [name for name in self._batch if name in feeds and name not in states]
        return max((np.shape(feeds[name])[self._batch[name]] for name in fed), default=None)
