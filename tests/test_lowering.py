"""One rank's part in a collective as a function: what it says of itself, and how it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rankwise.models.functions.lower import recognised
from rankwise.models.functions.lowering import Lowering
from rankwise.models.functions.ring import ring_function
from rankwise.models.functions.rounds import lowered_function

WHAT: dict[str, Any] = {
    "op_type": "Reduce", "algorithm": "tree", "rank": 1, "size": 4, "op": "sum", "root": 3,
}  # fmt: skip


def operators(what: Lowering) -> list[str]:
    return [node.op_type for node in lowered_function(what, 20).node]


def test_a_function_is_known_by_what_it_is() -> None:
    function = lowered_function(Lowering(**WHAT), 20)
    assert recognised(function) == Lowering(**WHAT)
    assert recognised(ring_function("max", 17)) == "max"
    function.node[-1].input[0] = "X"
    assert recognised(function) is None


NONSENSE = [
    "no json", "[]", '{"rank": 1}',
    *(json.dumps({**WHAT, key: value}) for key, value in
      (("rank", 9), ("root", None), ("root", 4), ("op", None), ("op", "xor"), ("size", "4"))),
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_what_a_function_says_of_itself_is_read_with_care(text: str) -> None:
    function = lowered_function(Lowering(**WHAT), 20)
    function.metadata_props[0].value = text
    assert recognised(function) is None


def test_a_tree_sends_whole_tensors() -> None:
    assert operators(Lowering("AllReduce", "tree", 1, 4, "sum")) == [
        "Constant", "Send", "Recv", "Identity", "Identity"
    ]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_ring_sends_as_many_blocks_as_its_schedule(size: int) -> None:
    found = operators(Lowering("AllReduce", "ring", size - 1, size, "sum"))
    assert (found.count("Send"), found.count("Recv")) == (2 * (size - 1), 2 * (size - 1))
    assert found.count("Add") >= size - 1


def test_one_rank_sends_nothing() -> None:
    for algorithm in ("ring", "tree", "naive"):
        found = operators(Lowering("AllReduce", algorithm, 0, 1, "sum"))
        assert not {"Send", "Recv"}.intersection(found)
