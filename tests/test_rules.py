"""The rules of operators: which dims pass, and that they run on parts as on the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ranks
from comparison import assert_same
from onnx import defs
from operators import OPERATORS

from rankwise.models.graph import load
from rankwise.models.sharding.analysis import analyse
from rankwise.models.sharding.axes import find
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.coverage import BODY, RULE, UNKNOWN, WHOLE, coverage
from rankwise.models.sharding.decompose import DECOMPOSED
from rankwise.models.sharding.rules import RULES
from rankwise.models.sharding.rules.replicated import REPLICATED


def test_every_operator_has_a_rule_a_body_or_a_reason() -> None:
    found = coverage("")
    assert found[UNKNOWN] == []
    names = {schema.name for schema in defs.get_all_schemas() if not schema.domain}
    assert sum(map(len, found.values())) == len(names) > 200


def test_no_operator_is_listed_twice_or_does_not_exist() -> None:
    tables = (set(RULES), set(DECOMPOSED), set(REPLICATED))
    names = {schema.name for schema in defs.get_all_schemas_with_history() if not schema.domain}
    assert set.union(*tables) <= names
    assert sum(map(len, tables)) == len(set.union(*tables))
    assert set(coverage("")) == {RULE, BODY, WHOLE, UNKNOWN}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_dims_that_pass_are_those_that_may(name: str) -> None:
    op_type, analysis = name.split()[0], analyse(load(OPERATORS[name].model))
    if op_type in DECOMPOSED:
        assert op_type not in {site.node.op_type for site in analysis.sites}
        op_type = ""
    found = ranks.passing(analysis, 2, op_type)
    obstacles = [site.obstacle for site in analysis.sites if site.obstacle]
    assert sorted(find(atom).size.first for atom in found) == OPERATORS[name].passes, obstacles


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", OPERATORS)
def test_parts_give_what_the_whole_gives(name: str, size: int, tmp_path: Path) -> None:
    case = OPERATORS[name]
    expected = ranks.whole(case.model, case.feeds)
    assert all(np.ptp(out.astype(np.float64)) > 0 for out in expected if out.size > 1)
    analysis = analyse(load(case.model))
    atoms = [atom for atom, _, _ in shardable(analysis, size)]
    assert bool(atoms) == bool(case.passes)
    for k, atom in enumerate(atoms):
        folder = tmp_path / str(k)
        folder.mkdir()
        for got in ranks.run(ranks.cut_along(analysis, atom, size), case.feeds, folder):
            assert_same(got, expected)
